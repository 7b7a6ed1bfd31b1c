"""What people should know of a table before they believe a score: one note for each oddity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .columns import Column, Table, listed
from .roles import Roles
from .sequences import Groups

__all__ = ["about_columns", "counters", "far_values", "unnamed_counters"]

_LEAST_ROWS = 10
_OFTEN = 3  # times that a value must occur to be told
_SHARE = 0.002  # of the rows, too
_ALIKE = 0.9999  # a correlation that says that two columns tell the same
_MOST_COMPARED = 2_000  # features; each is compared with the target alone
# Numbers that files have for missing values, with either sign, and those with a minus alone.
_CODES = frozenset(
    (
        *(99, 777, 888, 998, 999, 6999, 7777, 8888, 9998, 9999, 77777, 88888, 99999, 999999),
        *(9999999, 99999999, 999999999, 9999999999, 99.9, 999.9, 9999.9, 99.99, 999.99, 9999.99),
        *(32767, 32768, 65535, 2147483647, 2147483648, 1e10, 1e15, 1e20, 1e30, 1e35, 1e36, 1e37),
        *(1e38, 9.96921e36, 9.969209968386869e36, 3.4028234663852886e38),
    )
)
_NEGATIVE_CODES = frozenset((-1, -9, -77, -88, -100, -200, -500, -1000))


# ---- Counters ----------------------------------------------------------------------------------


def unnamed_counters(
    table: Table, features: Sequence[str], sequence: str | None
) -> tuple[tuple[str, ...], list[str]]:
    """Features without those columns that have no name and number the rows, and notes.

    sequence: the column that names the sequences, in each of which the numbers may begin anew.
    """
    ids = table.columns[sequence] if sequence is not None else table.file_of_rows()
    left: dict[str, str] = {}
    for name in features:
        what = _counts(table.columns[name], ids) if name in table.unnamed else None
        if what is not None:
            left[name] = what
    notes = []
    for what in dict.fromkeys(left.values()):
        names = [name for name, other in left.items() if other == what]
        column, has, it = (
            ("column", "has", "it") if len(names) == 1 else ("columns", "have", "them")
        )
        notes.append(
            f"{column} {listed(names)} {has} no name and {what}: left out; --features brings {it} "
            "back"
        )
    return tuple(name for name in features if name not in left), notes


def _counts(column: Column, ids: Column) -> str | None:
    gone = column.missing()
    if gone.all():
        return "no values"
    if gone.any() or column.kind == "date":
        return None
    apart = len(np.unique(column.values)) == len(column.values)
    if column.kind == "text":
        return "another text in each row" if apart and len(gone) >= _LEAST_ROWS else None
    if not (column.values == np.round(column.values)).all():
        return None
    rows = np.argsort(ids.values, kind="stable")
    inside = np.diff(ids.values[rows]) == 0
    by_one = inside.any() and (np.diff(column.values[rows])[inside] == 1).all()
    return "a number of its own in each row" if apart or by_one else None


def counters(table: Table, features: Sequence[str], groups: Groups) -> list[str]:
    """A note on features that rise by the same from row to row in every sequence."""
    inside = np.flatnonzero(np.diff(groups.of_rows) == 0)
    found = []
    for name in features:
        column = table.columns[name]
        if column.kind != "number" or len(inside) < _LEAST_ROWS:
            continue
        values = column.values[groups.rows]
        steps = values[inside + 1] - values[inside]
        if np.isfinite(steps).all() and steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-6):
            found.append(name)
    if not found:
        return []
    rise, them = ("rises", "it is") if len(found) == 1 else ("rise", "they are")
    return [
        f"{listed(found)} {rise} by the same from row to row: if {them} a time or a counter, name "
        "it with --order, or list --features without it"
    ]


# ---- Values that may stand for missing ones ----------------------------------------------------


def far_values(table: Table, names: Sequence[str]) -> list[str]:
    """A note for each column of numbers where a value far outside the rest occurs often."""
    notes = []
    for name in names:
        column = table.columns[name]
        if column.kind != "number":
            continue
        known = column.values[np.isfinite(column.values)]
        for value, times, low, high in _far_out(known):
            notes.append(
                f"column {name} is {value:.15g} in {times:,} of {len(known):,} rows, and between "
                f"{low:.6g} and {high:.6g} in the others: pass --missing-value {value:.15g} if it "
                "stands for a missing value"
            )
    return notes


def _far_out(values: NDArray[np.float64]) -> list[tuple[float, int, float, float]]:
    """Values that occur often and lie far outside the others, with their number and the others'.

    From both ends, single outliers passed over: up to three neighbours that all occur often and
    that lie further from the rest than it is wide, or, for numbers such as 999 that are used so,
    further than a twentieth of it.
    """
    each, counts = np.unique(values, return_counts=True)
    often = counts >= max(_OFTEN, _SHARE * len(values))
    found: list[tuple[float, int]] = []
    low, high = 0, len(each)
    changed = True
    while changed:
        changed = False
        for sign in (1, -1):
            taken = _at_end(each[low:high][::sign], often[low:high][::sign])
            if taken:
                begin, stop = (low, low + taken) if sign > 0 else (high - taken, high)
                found += [(float(each[i]), int(counts[i])) for i in range(begin, stop) if often[i]]
                low, high = (stop, high) if sign > 0 else (low, begin)
                changed = True
    return [(value, times, float(each[low]), float(each[high - 1])) for value, times in found]


def _at_end(each: NDArray[np.float64], often: NDArray[np.bool_]) -> int:
    """How many of the first values lie far outside the others; 0 if none does."""
    for count in (1, 2, 3):
        if len(each) - count < 2 or not often[:count].all():
            return 0
        rest = each[count:]
        width = abs(float(rest[-1] - rest[0]))
        gap = abs(float(rest[0] - each[count - 1]))
        codes = all(
            abs(float(value)) in _CODES or float(value) in _NEGATIVE_CODES for value in each[:count]
        )
        if gap > (0.05 if codes else 1.0) * width and (codes or len(rest) > 3):
            return count
    return 0


# ---- Columns that tell the same ----------------------------------------------------------------


def about_columns(
    table: Table,
    roles: Roles,
    groups: Groups,
    y: NDArray[np.float64],
    now: NDArray[np.float64],
    is_class: bool,
) -> list[str]:
    """Notes on features of the same content, and on features that are the target.

    y: (n,) the target of each place of groups; now: (n,) that of the row itself.
    """
    assert roles.features is not None
    names = roles.features[:_MOST_COMPARED]
    columns = {name: table.columns[name].take(groups.rows) for name in names}
    return [
        *_same_content(columns, roles),
        *(
            note
            for name, column in columns.items()
            if not (roles.horizon and name == roles.target)
            and (note := _is_target(name, column, roles, y, now, is_class)) is not None
        ),
        *_spellings(columns),
    ]


def _same_content(columns: dict[str, Column], roles: Roles) -> list[str]:
    seen: dict[tuple[str, bytes], str] = {}
    notes = []
    for name, column in columns.items():
        if column.kind == "date" or column.missing().all() or len(column.values) < 2:
            continue
        values = _partition(column) if column.kind == "text" else column.values + 0.0
        if column.kind == "text" and len(np.unique(values)) < 2:
            continue
        if column.kind == "number" and np.nanmin(values) == np.nanmax(values):
            continue  # told as constant
        first = seen.setdefault((column.kind, values.tobytes()), name)
        if first != name:
            alike = "tell the same" if column.kind == "text" else "have the same content"
            notes.append(
                f"columns {first} and {name} {alike}: list --features with one of them alone"
            )
    return notes


def _partition(column: Column) -> NDArray[np.int64]:
    """(n,) texts numbered as they come, so that other texts in the same places are the same."""
    _, first, inverse = np.unique(column.values, return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first))
    return np.asarray(ranks[inverse], dtype=np.int64)


def _is_target(
    name: str,
    column: Column,
    roles: Roles,
    y: NDArray[np.float64],
    now: NDArray[np.float64],
    is_class: bool,
) -> str | None:
    known = ~np.isnan(y) & ~column.missing()
    if column.kind == "date" or known.sum() < _LEAST_ROWS:
        return None
    values = column.values[known].astype(np.float64)
    if is_class or column.kind == "text":
        if not is_class or not _one_to_one(values, y[known]):
            return None
        how = f"has one value for each class of the target {roles.target}"
    else:
        alike = _correlation(values, y[known])
        if abs(alike) < _ALIKE:
            return None
        if roles.horizon:  # slow series are like themselves a little later
            both = known & ~np.isnan(now)
            if abs(_correlation(now[both], y[both])) >= abs(alike):
                return None
        how = f"has a correlation of {alike:.4f} with the target {roles.target}"
    return (
        f"column {name} {how}: is it the target under another name? If so, list --features "
        "without it, or the score means nothing"
    )


def _one_to_one(values: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether each value goes with one class and each class with one value."""
    pairs = len(np.unique(np.stack([values, y]), axis=1).T)
    return pairs == len(np.unique(values)) == len(np.unique(y)) > 1


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 2:
        return 0.0
    with np.errstate(all="ignore"):
        a, b = a - a.mean(), b - b.mean()
        scale = float(np.abs(a).max() * np.abs(b).max())
        if not np.isfinite(scale) or scale == 0.0:
            return 0.0
        a, b = a / np.abs(a).max(), b / np.abs(b).max()
        value = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return value if np.isfinite(value) else 0.0


def _spellings(columns: dict[str, Column]) -> list[str]:
    """Notes on columns of True and False, and of texts that differ in capitals or spaces alone."""
    notes = []
    for name, column in columns.items():
        if column.kind != "text":
            continue
        if {text.casefold() for text in column.texts} <= {"true", "false"}:
            notes.append(f"column {name} holds {listed(column.texts)}: read as categories")
        folded: dict[str, str] = {}
        for text in column.texts:
            other = folded.setdefault(" ".join(text.casefold().split()), text)
            if other != text:
                notes.append(
                    f"column {name} holds {other!r} and {text!r}, which count as two categories"
                )
                break
    return notes
