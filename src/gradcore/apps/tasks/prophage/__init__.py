"""Prophages: which regions of a bacterial chromosome came from a phage, by species held out."""
