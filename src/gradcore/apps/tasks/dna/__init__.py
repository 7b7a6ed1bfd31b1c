"""Genomes: a class per base, genes, files that genome browsers open."""
