"""Rows to sequences: grouped by id, sorted by order, and split into parts to learn and judge on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from .columns import Column, Table, dates_as_text

Split = Literal["sequence", "time"]
TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 3
SHARES = (0.7, 0.15, 0.15)
FEW_SEQUENCES = 10  # fewer than these are split by time if nothing else is said
_LEAST_STEPS = 20  # of a sequence that is split by time


@dataclass(frozen=True, eq=False)
class Groups:
    """Sequences of a table.

    rows: (n,) rows of the table, sequence by sequence and sorted within. starts: (S+1,) where each
    begins in rows. ids: (S,) what each is called, in the order of the file.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: tuple[str, ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(S,) rows of each sequence."""
        return np.diff(self.starts)

    @property
    def of_rows(self) -> NDArray[np.int64]:
        """(n,) sequence of each place of rows."""
        return np.repeat(np.arange(len(self.ids)), self.lengths)

    def keep(self, chosen: NDArray[np.bool_]) -> Groups:
        """The chosen (S,) sequences alone."""
        starts = np.concatenate([[0], np.cumsum(self.lengths[chosen])])
        ids = tuple(name for name, kept in zip(self.ids, chosen, strict=True) if kept)
        return Groups(self.rows[chosen[self.of_rows]], starts.astype(np.int64), ids)

    def without(self, left_out: NDArray[np.bool_]) -> Groups:
        """All but the rows (n places) left out; a sequence may become empty."""
        kept = ~left_out
        counts = np.bincount(self.of_rows[kept], minlength=len(self.ids))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Groups(self.rows[kept], starts, self.ids)


def group(table: Table, sequence: str | None, order: str | None) -> Groups:
    """The sequences of a table; without a column that names them, each file is one.

    See `unsorted` for what sorting did. Raises ArgumentError for a row without a sequence, and for
    two rows of one sequence at one place in the order.
    """
    ids = table.columns[sequence] if sequence is not None else table.file_of_rows()
    if ids.missing().any():
        row = int(np.flatnonzero(ids.missing())[0])
        raise ArgumentError(
            f"{table.where(row)}: column {sequence!r} must name the sequence of every row; it is "
            "missing here. Fill it in, or leave the row out."
        )
    codes = ids.values
    if order is None:
        rows = np.argsort(codes, kind="stable")
    else:
        places = table.columns[order]
        rows = np.lexsort((places.values, codes))
        _check_ties(table, ids, order, places, rows)
    counts = np.bincount(codes, minlength=len(ids.texts))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Groups(rows.astype(np.int64), starts, ids.texts)


def _check_ties(
    table: Table, ids: Column, order: str, places: Column, rows: NDArray[np.int64]
) -> None:
    codes, values = ids.values[rows], places.values[rows]
    tied = (codes[1:] == codes[:-1]) & (values[1:] == values[:-1])
    if not tied.any():
        return
    at = int(np.flatnonzero(tied)[0])
    first, second = sorted((int(rows[at]), int(rows[at + 1])))
    value = values[at : at + 1]
    shown = str(value[0])
    whole_day = False
    if places.kind == "date":
        shown = dates_as_text(value, unit=places.unit)[0]
        whole_day = "T" not in shown
    more = int(tied.sum()) - 1
    others = f" ({more:,} more such pairs)" if more else ""
    raise ArgumentError(
        f"{table.where(first)} and {table.where(second).rpartition('/')[2]}: sequence "
        f"{ids.texts[int(codes[at])]!r} has two rows with {order} = {shown}{others}. Expected a "
        "different place for each row; remove one, or name the --sequence they belong to."
        + (" A time of day in another column must be joined to the date." * whole_day)
    )


def unsorted(table: Table, groups: Groups, order: str | None) -> list[str]:
    """A note if the rows of sequences did not stand in their order."""
    if order is None:
        return []
    back = np.flatnonzero((np.diff(groups.rows) < 0) & (np.diff(groups.of_rows) == 0))
    if not len(back):
        return []
    pairs = len(groups.rows) - len(groups.ids)
    if len(back) == pairs:
        return [f"the rows run backwards in {order}: they were sorted by it"]
    row = table.where(int(groups.rows[back[0] + 1]))
    return [
        f"{len(back):,} of {len(groups.rows):,} rows do not stand in the order of {order}, the "
        f"first at {row}: they were sorted by it"
    ]


def choose_split(
    groups: Groups, how: Split | None, per_sequence: bool, ahead: bool
) -> tuple[Split, str]:
    """How rows are to be parted, and why, for a note.

    Where nothing is given: by time if there are fewer than ten sequences or if the target lies
    ahead, since whole sequences then teach too little of the others; by sequence otherwise, and
    where they are too short to be cut.
    """
    count = len(groups.ids)
    if how is not None:
        return how, ""
    if per_sequence or (count >= FEW_SEQUENCES and not ahead):
        return "sequence", ""
    if groups.lengths.max() < _LEAST_STEPS and count >= 3:
        return "sequence", (
            f"sequences of {groups.lengths.max()} rows at most are too short to be split by time "
            f"(which needs {_LEAST_STEPS}): whole sequences are held out"
        )
    if count == 1:
        return "time", ""
    why = f"there are fewer than {FEW_SEQUENCES} sequences"
    if count >= FEW_SEQUENCES:
        why = "the target lies ahead"
    return "time", (
        f"{why}: the last rows of each sequence are held out; --split sequence holds out whole ones"
    )


def split(
    groups: Groups,
    how: Split,
    seed: int,
    labels: NDArray[np.int64] | None = None,
    column: str | None = None,
) -> NDArray[np.int8]:
    """The part (n,) of each place of groups.rows.

    "sequence": whole sequences, drawn by seed, with every class of labels (S,) (negative: none) in
    the same shares where there are enough of it. "time": the first rows of each sequence to learn
    from, later ones to validate, the last to test. column: that names the sequences, for messages.
    Raises ArgumentError if there is too little to part.
    """
    count = len(groups.ids)
    if how == "sequence":
        if count < 3:
            raise ArgumentError(_too_few_sequences(count, column, labels is not None))
        parts = _parts_of_sequences(count, seed, labels)
        return np.repeat(parts, groups.lengths)
    if labels is not None:
        raise ArgumentError(
            "--split time needs a target in every row; with --per sequence whole sequences are "
            "held out: use --split sequence."
        )
    lengths = groups.lengths
    if lengths.max() < _LEAST_STEPS:
        raise ArgumentError(
            f"--split time needs a sequence of at least {_LEAST_STEPS} rows; the longest has "
            f"{lengths.max()}. "
            + ("Use --split sequence, or give more rows." if count >= 3 else "Give more rows.")
        )
    # A short sequence is learned from whole.
    first = np.where(lengths < _LEAST_STEPS, lengths, np.round(lengths * SHARES[0]))
    second = np.where(lengths < _LEAST_STEPS, lengths, np.round(lengths * sum(SHARES[:2])))
    place = np.arange(len(groups.rows)) - np.repeat(groups.starts[:-1], lengths)
    later = (place >= np.repeat(first, lengths)).astype(np.int8)
    return later + (place >= np.repeat(second, lengths)).astype(np.int8)


def _too_few_sequences(count: int, column: str | None, per_sequence: bool) -> str:
    text = (
        f"expected at least 3 sequences, to learn from some and be judged on others; got {count}. "
    )
    if column is None:
        return text + "Name the column that tells the sequences of a file apart with --sequence."
    if per_sequence:
        return text + f"Is {column!r} the right --sequence?"
    return text + "Use --split time to hold out the last rows of each."


def _parts_of_sequences(
    count: int, seed: int, labels: NDArray[np.int64] | None
) -> NDArray[np.int8]:
    """Each class is dealt out in turn, so that a class of 3 or more is in every part."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shuffled = rng.permutation(count)
    if labels is not None:
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    parts = np.full(count, TRAIN, dtype=np.int8)
    classes = np.zeros(count, dtype=np.int64) if labels is None else labels[shuffled]
    for label in np.unique(classes):
        members = shuffled[classes == label]
        held = max(1, round(len(members) * SHARES[2])) if len(members) >= 3 else 0
        parts[members[:held]] = TEST
        parts[members[held : 2 * held]] = VALIDATION
    for part in (VALIDATION, TEST):
        if not (parts == part).any():  # only classes of one or two
            parts[shuffled[parts[shuffled] == TRAIN][0]] = part
    return parts
