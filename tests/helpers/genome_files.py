"""Small genome files for tests: sequences with chosen genes, as GenBank and as GFF3."""

import numpy as np


def bases(length, seed=0):
    """Random bases."""
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def complemented(text):
    """The reverse complement."""
    return text.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def gene_text(codons, stop="TAA", seed=0):
    """A gene of the given number of codons that starts with ATG and has no stop codon of code 11
    before its last.
    """
    rng = np.random.default_rng(seed)
    sense = ["GCC", "GGC", "CTG", "AAC", "GAC", "ATC", "CGC", "GTC", "ACC", "TTC", "CAG", "GAG"]
    return "ATG" + "".join(rng.choice(sense, codons - 2)) + stop


def genbank(features, letters, *, name="TEST", topology="linear", locus=None, head=""):
    """One GenBank record.

    features: CDS as (location, *qualifiers without the slash). locus: replaces the first line.
    head: text before the record.
    """
    first = locus or (
        f"LOCUS       {name:16} {len(letters):11} bp    DNA     {topology:8} BCT 01-JAN-2000"
    )
    lines = [first, "DEFINITION  a test.", f"ACCESSION   {name}", f"VERSION     {name}.1"]
    lines.append("FEATURES             Location/Qualifiers")
    for location, *words in features:
        lines.append(f"     CDS             {location}")
        lines += [f"                     /{word}" for word in words]
    lines.append("ORIGIN")
    low = letters.lower()
    for at in range(0, len(low), 60):
        row = low[at : at + 60]
        lines.append(f"{at + 1:9} " + " ".join(row[i : i + 10] for i in range(0, len(row), 10)))
    return head + "\n".join(lines) + "\n//\n"


def gff3(*rows):
    """Lines of GFF3; the columns of a feature are given separated by blanks, one feature per
    line.
    """
    lines = ["##gff-version 3"]
    lines += [row if row.startswith("#") else "\t".join(row.split(" ")) for row in rows]
    return "\n".join(lines) + "\n"


def fasta(**records):
    """Records by name, as FASTA."""
    return "".join(f">{name}\n{letters}\n" for name, letters in records.items())
