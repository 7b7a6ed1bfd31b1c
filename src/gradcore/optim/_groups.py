"""Parameter groups: which parameters share a rate and a weight decay, and which are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from math import prod

from .._base.checks import flag, float_in, store
from .._net.flat import ParameterSpec
from .._net.stack import Params
from ..errors import ArgumentError, DTypeError

__all__ = ["Group", "Layout", "assign", "no_decay"]

DEFAULT = "default"


@dataclass(frozen=True)
class Group:
    """Parameters, chosen by name, with options of their own.

    patterns: one or several fnmatch patterns over parameter names, as "0.*" or "*.bias_*"; case
    counts. lr_scale multiplies the optimizer's lr. weight_decay replaces the optimizer's, None
    keeps it. frozen: parameters and moments never change, and the gradient takes no part in norms
    and clipping. name: how reports call the group; None joins the patterns with commas.

    The first group that matches a parameter has it; what none matches is the group "default".
    Raises ArgumentError or DTypeError for a wrong option.
    """

    patterns: str | Sequence[str]
    _: KW_ONLY
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        one = isinstance(self.patterns, str)
        patterns = (self.patterns,) if one else self.patterns
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(p, str) for p in patterns):
            raise DTypeError(f"Group.patterns must be strings; got {self.patterns!r}.")
        if not patterns:
            raise ArgumentError("Group.patterns must hold at least one pattern; got none.")
        store(self, "patterns", tuple(patterns))
        store(self, "lr_scale", float_in("Group.lr_scale", self.lr_scale, 0.0))
        if self.weight_decay is not None:
            decay = float_in("Group.weight_decay", self.weight_decay, 0.0)
            store(self, "weight_decay", decay)
        store(self, "frozen", flag("Group.frozen", self.frozen))
        if self.name is None:
            store(self, "name", ",".join(patterns))
        elif not isinstance(self.name, str):
            raise DTypeError(f"Group.name must be a string or None; got {self.name!r}.")

    def matches(self, name: str) -> bool:
        """Whether a parameter of this name would belong to the group."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def no_decay(params: Params) -> Group:
    """The usual exemption from weight decay: every parameter with a single axis.

    Those are biases, scales and offsets of normalisations, and learned skip parameters; matrices
    and embeddings keep their decay. Use: `AdamW(params, groups=[gd.optim.no_decay(params)])`.
    Raises ArgumentError if the net has none.
    """
    if not isinstance(params, Params):
        raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
    names = [spec.name for spec in params.owner.parameter_specs if len(spec.shape) < 2]
    if not names:
        raise ArgumentError(
            "no_decay needs a net that has parameters with a single axis, as biases; all of "
            f"{', '.join(params)} have more. Leave the group out."
        )
    return Group(names, weight_decay=0.0, name="no_decay")


@dataclass(frozen=True)
class Layout:
    """Parameters of a net with the groups they belong to, frozen ones left out."""

    names: tuple[str, ...]
    """Groups that have parameters to train, in the order in which they were given."""
    members: tuple[tuple[ParameterSpec, int, Group], ...]
    """Every parameter to train, ascending, with the index of its group's name and the group."""

    def segments(self, weight_decay: float) -> list[tuple[int, int, int, float, float, int]]:
        """What the core wants: offset, length, group, lr_scale, weight_decay, unit."""
        return [
            (
                spec.start,
                spec.stop - spec.start,
                index,
                group.lr_scale,
                weight_decay if group.weight_decay is None else group.weight_decay,
                prod(spec.shape[1:]) if len(spec.shape) > 1 else spec.stop - spec.start,
            )
            for spec, index, group in self.members
        ]


def assign(params: Params, groups: Sequence[Group]) -> Layout:
    """Gives every parameter to its group.

    Raises ArgumentError if a pattern matches nothing, a group is left without parameters, two
    groups have one name, or everything is frozen.
    """
    if not isinstance(groups, (tuple, list)) or not all(isinstance(g, Group) for g in groups):
        raise DTypeError(f"groups must be a list of gradcore.optim.Group; got {groups!r}.")
    known = ", ".join(params)
    named: dict[str, Group] = {}
    for group in groups:
        for pattern in group.patterns:
            if not any(fnmatchcase(name, pattern) for name in params):
                raise ArgumentError(
                    f"the pattern {pattern!r} of group {group.name!r} matches no parameter; the "
                    f"net has {known}."
                )
        if group.name == DEFAULT or group.name in named:
            raise ArgumentError(
                f"every group must have a name of its own, other than {DEFAULT!r}, which is all "
                f"the rest; got {group.name!r} again. Pass name=..."
            )
        named[str(group.name)] = group
    rest = Group("*", name=DEFAULT)
    owners = [
        (spec, next((g for g in groups if g.matches(spec.name)), rest))
        for spec in params.owner.parameter_specs
    ]
    for group in groups:
        if not any(owner is group for _, owner in owners):
            raise ArgumentError(
                f"group {group.name!r} is left without parameters: groups before it have all that "
                "match its patterns. Put it first or leave it out."
            )
    kept = [(spec, owner) for spec, owner in owners if not owner.frozen]
    if not kept:
        raise ArgumentError(
            f"at least one parameter must be left to train; all are frozen: {known}."
        )
    names = [
        str(group.name) for group in (*groups, rest) if any(owner is group for _, owner in kept)
    ]
    return Layout(
        tuple(names),
        tuple((spec, names.index(str(owner.name)), owner) for spec, owner in kept),
    )
