"""Which genes of an annotation file belong to which sequence: names decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gradcore as gd

from .genome import Record
from .gff3 import PROGRAM, Features
from .remarks import Remarks, Say, listed

__all__ = ["join", "join_records"]


def join(records: Sequence[Record], features: Features, say: Say) -> list[Record]:
    """Returns records with the genes that an annotation file has for their names.

    A record without genes in the file has none; this is reported if the file does not name the
    record at all. Raises ArgumentError if it names none of the records, and for genes that lie
    beyond the end of a record.
    """
    path = features.path
    matches = _matches(records, list(features.names), path)
    _tell(records, features, matches, say)
    remarks = Remarks(path, say)
    made = []
    for record in records:
        name = matches.get(record.name, record.name)
        circular = record.circular or name in features.circular
        genes = features.genes(name, len(record), circular, remarks)
        made.append(replace(record, genes=genes, circular=circular))
    remarks.finish()
    return made


def join_records(
    records: Sequence[Record], others: Sequence[Record], path: Path, say: Say
) -> list[Record]:
    """Returns records with the genes of those of the same name in a GenBank or EMBL file.

    Raises ArgumentError if none has the same name, or if one there has another length.
    """
    own = {record.name: record for record in others}
    matches = _matches(records, list(own), path)
    made = []
    for record in records:
        other = own.get(matches.get(record.name, ""))
        if other is None:
            say(f"{path} does not name {record.name} of {record.source}: assumed to have no genes")
            made.append(replace(record, genes=()))
            continue
        if len(other) != len(record):
            raise gd.ArgumentError(
                f"{path}: {other.name} has {len(other):,} bases, and {record.name} of "
                f"{record.source} {len(record):,}: the genes of one have other places in the other."
            )
        made.append(
            replace(record, genes=other.genes, organism=other.organism, circular=other.circular)
        )
    return made


def _matches(records: Sequence[Record], names: list[str], path: Path) -> dict[str, str]:
    """As _same, but raises ArgumentError if no name of one side is one of the other."""
    found = _same(records, names)
    if names and not found:
        raise gd.ArgumentError(
            f"{path} has no genes of {listed([record.name for record in records])}: it names "
            f"{listed(names)}, and none of these is in {records[0].source}. Genes belong to "
            "sequences by name: give them the same names."
        )
    return found


def _same(records: Sequence[Record], names: list[str]) -> dict[str, str]:
    """Finds which names of records and of an annotation file mean the same sequence.

    They are the same, or differ in that one of them has a version (NC_001416.1) and the other has
    none, or one of them is a field of the other between bars (gi|9626243|ref|NC_001416.1|), or that
    of the annotation goes on in the header of FASTA, where only one pair is alike in this way.
    """
    found = {record.name: record.name for record in records if record.name in set(names)}
    taken = set(found.values())
    for forms in (_without_version, _fields, _longer):
        free = [name for name in names if name not in taken]
        # A form of a name is compared with whole names: NC_001416.1 is not NC_001416.2.
        whole: dict[str, set[str]] = {name: {name} for name in free}
        shortened: dict[str, set[str]] = {}
        for name in free:
            for form in forms(name):
                shortened.setdefault(form, set()).add(name)
        pairs = {
            (record.name, name)
            for record in records
            if record.name not in found
            for name in set().union(
                shortened.get(record.name, ()),
                *(whole.get(form, ()) for form in forms(record.title or record.name)),
            )
        }
        of_record = Counter(record for record, _ in pairs)
        of_name = Counter(name for _, name in pairs)
        for record, name in pairs:
            if of_record[record] == of_name[name] == 1:
                found[record] = name
                taken.add(name)
    return found


def _without_version(title: str) -> list[str]:
    stem, dot, version = title.partition(" ")[0].rpartition(".")
    return [stem] if dot and version.isdecimal() else []


def _longer(title: str) -> list[str]:
    """The first two words of a header, the first three, and so on up to all."""
    words = title.split()
    return [" ".join(words[:count]) for count in range(2, len(words) + 1)]


def _fields(title: str) -> list[str]:
    name = title.partition(" ")[0]
    return [field for field in name.split("|") if field] if "|" in name else []


def _tell(records: Sequence[Record], features: Features, matches: dict[str, str], say: Say) -> None:
    """Reports what may differ from what the user expects."""
    path, source = features.path, records[0].source
    other = [f"{name} ({own})" for name, own in matches.items() if own != name]
    if other:
        say(f"{source}: records are matched with other names in {path}: {listed(other)}")
    lost = [name for name in features.coding if name not in matches.values()]
    if lost:
        say(f"{path} has genes of {listed(lost)}, which are not in {source}; they are ignored")
    silent = [record.name for record in records if record.name not in matches]
    if silent:
        say(f"{path} does not name {listed(silent)} of {source}: assumed to have no genes")
    if not features.coding:
        kinds = listed(sorted(features.kinds)) or "none"
        say(f"{path} has no CDS, so that no record of {source} has genes; its features: {kinds}")
    for record in records:
        end = features.ends.get(matches.get(record.name, ""))
        if end is not None and end != len(record):
            say(
                f"{path} states {end:,} bases for {record.name}; {source} has {len(record):,}: do "
                "they belong together?"
            )
    if features.program == PROGRAM:
        say(f"{path} was written by gradcore: its genes are those that a net called")
