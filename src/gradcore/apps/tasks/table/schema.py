"""What a net was taught to read: features with their scale or categories, and its target.

Everything is measured on the rows that the net learns from and kept in the checkpoint, so that
validation, test and later files are read in the same way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError, CheckpointError
from .columns import NO_TEXT, Column, Table, counted, listed
from .roles import Per, Roles
from .sequences import Groups
from .steps import Horizon, parse_horizon
from .wanted import Format, format_from_json

Missing = Literal["error", "drop", "zero", "mean", "last"]
Unseen = Literal["error", "none"]
TargetKind = Literal["number", "class"]

MISSING: tuple[Missing, ...] = get_args(Missing)
# One-hot columns of a feature at most; a text column alone becomes tokens, which may be more.
MOST_CATEGORIES = 256
MOST_TOKENS = 65_536
MOST_CLASSES = 1_000
FEW_VALUES = 10
_FORMAT = 3
# Deviations of a normal distribution that its middle half is wide.
_MIDDLE_HALF = 1.349


@dataclass(frozen=True)
class Feature:
    """A column that the net reads.

    kind "number": (value - mean) / std, with a deviation that a few numbers far out do not make
    large. kind "text": one of categories, one-hot, all zeros for
    another; tokens if it is the only feature.
    """

    name: str
    kind: Literal["number", "text"]
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Inputs that it takes."""
        return len(self.categories) if self.kind == "text" else 1


@dataclass(frozen=True)
class Target:
    """The column that the net tells.

    kind "number": outputs times std plus mean. kind "class": one output for each of classes.
    per "step": in every row, of `ahead` steps later; per "sequence": once, after the last row.
    lead: the time that lies ahead, such as "3h", where it was given so.
    """

    name: str
    kind: TargetKind
    per: Per
    ahead: int = 0
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    lead: str = ""

    @property
    def horizon(self) -> Horizon:
        """How far ahead the target lies."""
        return parse_horizon(self.lead or self.ahead)

    @property
    def column(self) -> str:
        """The name of a column of predictions: that of a forecast tells how far it looks ahead."""
        if not self.horizon:
            return "prediction"
        return f"{self.name}_ahead_{self.lead.replace(' ', '') or self.ahead}"

    @property
    def width(self) -> int:
        """Outputs that it takes."""
        return len(self.classes) if self.kind == "class" else 1


@dataclass(frozen=True)
class Schema:
    """How a table is read.

    sequence, order: names of columns or None. missing: see encode. files: how the files are
    written, which later files are read by. step: that of the order as text, "" for none.
    """

    features: tuple[Feature, ...]
    target: Target
    sequence: str | None
    order: str | None
    missing: Missing
    files: Format = field(default_factory=Format)
    step: str = ""

    @property
    def tokens(self) -> bool:
        """Whether the net reads tokens: its only feature is text."""
        return len(self.features) == 1 and self.features[0].kind == "text"

    @property
    def width(self) -> int:
        """Inputs of the net; with tokens their number, the last one for unseen text."""
        return sum(feature.width for feature in self.features) + self.tokens

    def as_json(self) -> dict[str, Any]:
        """The schema as JSON values."""
        return {"format": _FORMAT, **asdict(self), "files": self.files.as_json()}


def from_json(value: object, source: str) -> Schema:
    """The schema that as_json told. Raises CheckpointError if it is none."""
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{source} holds no net for tables. Make one with gradcore train csv."
        )
    if value.get("format") != _FORMAT:
        raise CheckpointError(
            f"{source} has table format {value.get('format')!r}; this gradcore reads {_FORMAT}. "
            "Update gradcore, or train again."
        )
    try:
        schema = Schema(
            features=tuple(_made(Feature, entry, "categories") for entry in value["features"]),
            target=_made(Target, value["target"], "classes"),
            sequence=_optional_text(value["sequence"]),
            order=_optional_text(value["order"]),
            missing=value["missing"],
            files=format_from_json(value["files"]),
            step=str(value["step"]),
        )
        _check(schema)
    except (KeyError, TypeError, ValueError, AttributeError, ArgumentError) as error:
        raise CheckpointError(f"{source} is damaged: its table schema is wrong: {error}.") from None
    return schema


def fit_features(
    roles: Roles, table: Table, groups: Groups, train: NDArray[np.bool_], missing: Missing
) -> tuple[tuple[Feature, ...], list[str]]:
    """Features measured on the places of groups.rows marked in train (n,), and notes.

    Columns that are constant there are left out. Raises ArgumentError if nothing is left, and for
    texts of too many kinds.
    """
    assert roles.features is not None
    rows = groups.rows[train]
    found, notes = [], []
    single = len(roles.features) == 1
    for name in roles.features:
        column = table.columns[name]
        if column.kind == "date":
            own = ", which has no name of its own," if name in table.unnamed else ""
            raise ArgumentError(
                f"{table.where(int(rows[0]))}: column {name!r}{own} holds dates, which are no "
                "feature. Name it with --order, list --features without it, or read it as "
                f"categories with --text {name}."
            )
        feature = _fit(name, column.take(rows), single)
        if feature is None:
            notes.append(f"column {name} is constant in the rows to learn from; left out")
        else:
            found.append(feature)
    if not found:
        raise ArgumentError(
            f"every feature is constant in the rows to learn from ({listed(roles.features)}): "
            "there is nothing to learn from. Name other --features."
        )
    if len(found) == 1 and not single and found[0].kind == "text":
        notes.append(f"only {found[0].name} is left: it is read as tokens")
    return tuple(found), notes


def _fit(name: str, column: Column, single: bool) -> Feature | None:
    """The feature, or None if it is constant."""
    known = ~column.missing()
    values = column.values[known]
    if column.kind == "text":
        counts = np.bincount(values, minlength=len(column.texts))
        used = tuple(sorted(text for text, n in zip(column.texts, counts, strict=True) if n))
        most = MOST_TOKENS if single else MOST_CATEGORIES
        if len(used) > most:
            raise ArgumentError(
                f"column {name!r} holds {len(used):,} different texts, such as {used[0]!r} and "
                f"{used[1]!r}; a feature may have {most:,}. If it is a date or a name, use --order "
                "or --sequence; otherwise list --features without it."
            )
        constant = len(used) + (not known.all()) < 2
        return None if constant else Feature(name, "text", categories=used)
    if not len(values) or values.min() == values.max():
        return None
    mean, std = _mean_std(name, values)
    return Feature(name, "number", mean, spread(values, std))


def spread(values: NDArray[np.float64], std: float | None = None) -> float:
    """The deviation of numbers, or of their middle half where that is smaller.

    So a few numbers far out do not make all others alike. std: the deviation, if it is known.
    """
    std = float(values.std()) if std is None else std
    low, high = np.percentile(values, [25.0, 75.0])
    middle = float(high - low) / _MIDDLE_HALF
    return min(std, max(middle, 0.1 * std)) if middle > 0.0 else std


def _mean_std(name: str, values: NDArray[np.float64]) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not (np.isfinite(mean) and np.isfinite(std)):
        raise ArgumentError(
            f"column {name!r} holds numbers too large to standardise, up to "
            f"{np.abs(values).max():.3g}. Scale it down."
        )
    return mean, std if std > 0.0 else 1.0


def target_kind(
    roles: Roles, column: Column, classify: bool | None, table: Table
) -> tuple[TargetKind, list[str]]:
    """Whether the target is a number or a class, and notes; classify: None to find out.

    Raises ArgumentError for a target that is neither.
    """
    name = roles.target
    known = ~column.missing()
    if column.kind == "date":
        raise ArgumentError(
            f"{table.where(0)}: the target {name!r} holds dates; expected numbers or classes. Make "
            "it a number, such as days from the row on."
        )
    if not known.any():
        raise ArgumentError(f"the target {name!r} is missing in every row; expected values.")
    if column.kind == "text" and classify is False:
        row = int(np.flatnonzero(known)[0])
        raise ArgumentError(
            f"{table.where(row)}: the target {name!r} must be a number with --regress; got "
            f"{column.cell(row)!r}. Leave out --regress to learn classes."
        )
    if classify is not None:
        return ("class" if classify else "number"), []
    if column.kind == "text":
        return "class", []
    if not _few_integers(column.values[known]):
        return "number", []
    count = len(np.unique(column.values[known]))
    return "class", [
        f"the target {name} has {count} integer values: read as classes; --regress to predict it "
        "as a number"
    ]


def fit_classes(roles: Roles, column: Column) -> Target:
    """A target of classes: all that the table has. Raises ArgumentError for too few or many."""
    classes = _classes(roles.target, column)
    return Target(roles.target, "class", roles.per, classes=classes)


def fit_number(roles: Roles, values: NDArray[np.float64]) -> Target:
    """A target that is a number, scaled by the values to learn from, NaN where unknown.

    Raises ArgumentError if they are constant or none is known.
    """
    name = roles.target
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        what = f"is {values[0]:g} in all rows" if len(values) else "is missing in all rows"
        raise ArgumentError(
            f"the target {name!r} {what} to learn from: there is nothing to learn. Name another "
            "--target, or give more rows."
        )
    mean, std = _mean_std(name, values)
    return Target(name, "number", roles.per, mean=mean, std=std)


def _few_integers(values: NDArray[Any]) -> bool:
    sample = np.unique(values)
    return len(sample) <= FEW_VALUES and bool((sample == np.round(sample)).all())


def _classes(name: str, column: Column) -> tuple[str, ...]:
    """Names of the classes in order: texts as sorted, numbers by size."""
    if column.kind == "text":
        used = np.unique(column.values[column.values != NO_TEXT])
        classes = sorted(column.texts[code] for code in used)
    else:
        classes = [_label(v) for v in np.unique(column.values[~np.isnan(column.values)]).tolist()]
    if len(classes) == 1:
        raise ArgumentError(
            f"the target {name!r} is {classes[0]!r} in every row: there is nothing to learn. Name "
            "another --target, or give rows of other classes."
        )
    if len(classes) > MOST_CLASSES:
        raise ArgumentError(
            f"the target {name!r} has {len(classes):,} classes, such as {classes[0]!r} and "
            f"{classes[1]!r}; expected up to {MOST_CLASSES:,}. Is it the right column?"
        )
    return tuple(classes)


def _label(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def class_codes(target: Target, column: Column) -> NDArray[np.float64]:
    """(n,) place of each row's class in target.classes, NaN where it is missing."""
    places = {name: place for place, name in enumerate(target.classes)}
    if column.kind == "text":
        by_code = [float(places.get(text, np.nan)) for text in column.texts]
        result: NDArray[np.float64] = np.array([*by_code, np.nan])[column.values]
        return result
    values, inverse = np.unique(column.values, return_inverse=True)
    by_value = [
        np.nan if np.isnan(v) else float(places.get(_label(v), np.nan)) for v in values.tolist()
    ]
    return np.array(by_value, dtype=np.float64)[inverse]


def encode(
    schema: Schema, table: Table, groups: Groups, unseen: Unseen
) -> tuple[NDArray[Any], list[str]]:
    """What the net reads for each place of groups.rows, and notes.

    (n, I) float32, or (n,) int32 tokens. Missing values: "zero" is the number 0, "mean" the mean of
    the rows learned from, "last" the value of the row before (the mean where there is none); a text
    is then none of the categories. unseen: whether a text that was not learned is an error.
    Raises ArgumentError naming the row.
    """
    notes: list[str] = []
    rows = groups.rows
    if schema.tokens:
        feature = schema.features[0]
        codes = _codes(feature, table, groups, schema.missing, unseen, notes)
        return np.where(codes < 0, len(feature.categories), codes).astype(np.int32), notes
    x = np.zeros((len(rows), schema.width), dtype=np.float32)
    start = 0
    for feature in schema.features:
        if feature.kind == "text":
            codes = _codes(feature, table, groups, schema.missing, unseen, notes)
            places = np.flatnonzero(codes >= 0)
            x[places, start + codes[places]] = 1.0
        else:
            x[:, start] = _standardised(feature, table, groups, schema.missing)
        start += feature.width
    return x, notes


def _codes(
    feature: Feature,
    table: Table,
    groups: Groups,
    missing: Missing,
    unseen: Unseen,
    notes: list[str],
) -> NDArray[np.int64]:
    """(n,) place of each text in the categories, negative for none of them."""
    column = table.columns[feature.name]
    known = {text: place for place, text in enumerate(feature.categories)}
    values = column.values[groups.rows]
    gone = values == NO_TEXT
    if missing == "last":
        values = _carried(values, ~gone, groups)
        gone = values == NO_TEXT
    by_code = np.array([*(known.get(text, -2) for text in column.texts), -1], dtype=np.int64)
    codes: NDArray[np.int64] = by_code[values]
    strange = codes == -2
    if strange.any():
        row = int(groups.rows[np.flatnonzero(strange)[0]])
        text = column.cell(row)
        if unseen == "error":
            raise ArgumentError(
                f"{table.where(row)}: column {feature.name!r} holds {text!r}, which the net has "
                f"not seen; it knows {listed(feature.categories)}. Correct it, train with such "
                "rows, or pass --unseen none to read it as none of them."
            )
        notes.append(
            f"column {feature.name}: {counted(int(strange.sum()), 'row')} with texts that are not "
            f"among those to learn from, such as {text!r}: read as none of them"
        )
    return codes


def _standardised(
    feature: Feature, table: Table, groups: Groups, missing: Missing
) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.columns[feature.name].values[groups.rows]
    gone = np.isnan(values)
    if gone.any():
        if missing == "last":
            values = _carried(values, ~gone, groups)
            gone = np.isnan(values)
        values = np.where(gone, 0.0 if missing == "zero" else feature.mean, values)
    with np.errstate(over="ignore"):
        scaled = (values - feature.mean) / feature.std
    # Beyond this the net's own products leave the range of float32.
    wild = np.abs(scaled) > 1e18
    if wild.any():
        row = int(groups.rows[np.flatnonzero(wild)[0]])
        raise ArgumentError(
            f"{table.where(row)}: column {feature.name!r} is {values[np.flatnonzero(wild)[0]]:g}, "
            f"which is out of all proportion to the rows learned from (mean {feature.mean:.4g}, "
            f"standard deviation {feature.std:.4g}). Correct it, or empty the cell."
        )
    result: NDArray[np.float64] = scaled
    return result


def _carried(values: NDArray[Any], known: NDArray[np.bool_], groups: Groups) -> NDArray[Any]:
    """Each unknown value replaced by the last known one of its sequence, if there is one."""
    places = np.where(known, np.arange(len(values)), -1)
    last = np.maximum.accumulate(places)
    begin = np.repeat(groups.starts[:-1], groups.lengths)
    return np.where(last >= begin, values[last], values)


def missing_cells(
    table: Table, names: tuple[str, ...], groups: Groups, missing: Missing
) -> NDArray[np.bool_]:
    """(n,) places of groups.rows where a column is missing and the row is to be dropped.

    Raises ArgumentError if rows are missing and missing is "error".
    """
    found = {name: table.columns[name].missing()[groups.rows] for name in names}
    counts = {name: int(gone.sum()) for name, gone in found.items() if gone.any()}
    dropped = np.zeros(len(groups.rows), dtype=np.bool_)
    if missing == "error" and counts:
        name = next(iter(counts))
        row = int(groups.rows[np.flatnonzero(found[name])[0]])
        each = listed(f"{name} in {n:,}" for name, n in counts.items())
        raise ArgumentError(
            f"{table.where(row)}: column {name!r} is missing (of {len(groups.rows):,} rows: "
            f"{each}). Fill it in, or pass --missing drop (leave such rows out), zero, mean (of "
            "the rows learned from) or last (the value of the row before)."
        )
    if missing == "drop":
        for gone in found.values():
            dropped |= gone
    return dropped


def _made(kind: type[Any], entry: object, plural: str) -> Any:
    if not isinstance(entry, dict):
        raise TypeError(f"{kind.__name__} is no object")
    known = {one.name for one in fields(kind)}
    strange = set(entry) - known
    if strange:
        raise ValueError(f"{kind.__name__} has {listed(sorted(strange))}")
    values = dict(entry)
    if not isinstance(values.get(plural, []), (list, tuple)):
        raise TypeError(f"{plural} is no list")
    return kind(**{**values, plural: tuple(values.get(plural, ()))})


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no name of a column")
    return value


def _check(schema: Schema) -> None:
    """Raises for values that Python would only stumble over later."""
    target = schema.target
    if not schema.features:
        raise ValueError("no features")
    if schema.missing not in MISSING:
        raise ValueError(f"missing is {schema.missing!r}")
    if target.kind not in get_args(TargetKind) or target.per not in get_args(Per):
        raise ValueError(f"target is {target.kind!r} per {target.per!r}")
    if isinstance(target.ahead, bool) or not isinstance(target.ahead, int) or target.ahead < 0:
        raise ValueError(f"ahead is {target.ahead!r}")
    if not isinstance(target.lead, str):
        raise TypeError("lead is no text")
    if target.horizon.timed != bool(target.lead):
        raise ValueError(f"lead is {target.lead!r}")
    if target.kind == "class" and len(target.classes) < 2:
        raise ValueError("fewer than two classes")
    items: tuple[Feature | Target, ...] = (*schema.features, target)
    for item in items:
        texts = item.categories if isinstance(item, Feature) else item.classes
        if not isinstance(item.name, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("names must be texts")
        if not (np.isfinite(item.mean) and np.isfinite(item.std) and item.std > 0):
            raise ValueError(f"{item.name} has mean {item.mean} and deviation {item.std}")
    for feature in schema.features:
        if feature.kind not in ("number", "text") or (
            feature.kind == "text" and not feature.categories
        ):
            raise ValueError(f"feature {feature.name} is {feature.kind!r}")
