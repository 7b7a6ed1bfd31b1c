"""Which column plays which part: features, target, sequence, order; checked against the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...._base.checks import choice
from ....errors import ArgumentError
from .columns import listed, unknown_column
from .steps import Horizon, parse_horizon

Per = Literal["step", "sequence"]


@dataclass(frozen=True)
class Roles:
    """What the columns are.

    features: None for all others. target: what is learned, in every row (per "step") or once for
    each sequence (per "sequence"). sequence: names the sequence of a row; None: each file is one.
    order: sorts the rows of a sequence; None: they are in order. ahead: learn the target of so many
    steps of the order (rows without one) later, or of a time such as "3h" later. text: columns that
    hold names even where they look like numbers.
    """

    target: str
    features: tuple[str, ...] | None = None
    sequence: str | None = None
    order: str | None = None
    per: Per = "step"
    ahead: int | str = 0
    text: tuple[str, ...] = ()

    @property
    def horizon(self) -> Horizon:
        """How far ahead the target lies. Raises ArgumentError if ahead is no such thing."""
        return parse_horizon(self.ahead)

    @property
    def names(self) -> frozenset[str]:
        """All columns that are needed."""
        others = (self.target, self.sequence, self.order)
        return frozenset((*(self.features or ()), *(name for name in others if name)))


def resolve(roles: Roles, names: Sequence[str], file: str) -> tuple[Roles, list[str]]:
    """Roles with the features written out, and notes.

    Raises ArgumentError for a column that is not there or that cannot play two parts.
    """
    choice("per", roles.per, ("step", "sequence"))
    if roles.horizon and roles.per == "sequence":
        raise ArgumentError(
            "--ahead needs a target in every row; leave it out with --per sequence, whose target "
            "belongs to the whole sequence."
        )
    single = {"--target": roles.target, "--sequence": roles.sequence, "--order": roles.order}
    given = {option: name for option, name in single.items() if name is not None}
    for option, name in given.items():
        if name not in names:
            raise unknown_column(name, names, option, file)
    for name in roles.text:
        if name not in names:
            raise unknown_column(name, names, "--text", file)
    _no_double_part(given)
    notes: list[str] = []
    if roles.features is None:
        features, notes = _other_columns(roles, names)
    else:
        features = tuple(dict.fromkeys(roles.features))
        _check_features(features, roles, names, file)
    if not features:
        raise ArgumentError(
            f"{file} has no column left to learn from: its columns are {listed(names)}. "
            "A feature is a column besides target, sequence and order."
        )
    return replace(roles, features=features), notes


def _no_double_part(given: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for option, name in given.items():
        if name in seen:
            raise ArgumentError(
                f"{seen[name]} and {option} name the same column, {name!r}; expected one each."
            )
        seen[name] = option


def _other_columns(roles: Roles, names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """All columns without another part; forecasting may see the target up to now."""
    taken = {roles.sequence, roles.order, *(() if roles.horizon else (roles.target,))}
    features = tuple(name for name in names if name not in taken)
    notes = []
    if roles.horizon:
        later = roles.horizon.told("step")
        notes.append(
            f"{roles.target} up to now is a feature too, since its value {later} later is "
            "learned; name --features without it if it is unknown"
        )
    return features, notes


def _check_features(
    features: tuple[str, ...], roles: Roles, names: Sequence[str], file: str
) -> None:
    for name in features:
        if name not in names:
            raise unknown_column(name, names, "--features", file)
        if name == roles.target and not roles.horizon:
            raise ArgumentError(
                f"--features names the target {name!r}: a net that sees it has nothing to learn. "
                "Leave it out, or forecast with --ahead N."
            )
        if name in (roles.sequence, roles.order):
            part = "sequence" if name == roles.sequence else "order"
            raise ArgumentError(
                f"--features names {name!r}, which is the {part}. Leave it out, or copy it to a "
                "column of another name."
            )
