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
    """Parameters, chosen by name, that have options of their own.

    patterns: one or several fnmatch patterns for names of parameters, such as "0.*" or "*.bias_*";
    upper and lower case differ. lr_scale multiplies the optimizer's lr. weight_decay replaces the
    optimizer's; None keeps that. frozen: the parameters and their moments never change, and their
    gradient does not count in norms and clipping. name: the name of the group in reports; None
    joins the patterns with commas.

    A parameter belongs to the first group that matches it, or to the group "default" if none does.
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
        """Whether one of the patterns matches this name of a parameter."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def no_decay(params: Params) -> Group:
    """The usual exemption from weight decay: every parameter with a single axis.

    These are biases, scales and offsets of normalisations, and learned skip parameters; matrices
    and embeddings keep their decay. Use it as `AdamW(params, groups=[gd.optim.no_decay(params)])`.
    Raises ArgumentError if the net has none.
    """
    if not isinstance(params, Params):
        raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
    names = [spec.name for spec in params.owner.parameter_specs if len(spec.shape) < 2]
    if not names:
        raise ArgumentError(
            "no_decay needs a net that has parameters with a single axis, such as biases; all of "
            f"{', '.join(params)} have more. Leave the group out."
        )
    return Group(names, weight_decay=0.0, name="no_decay")


@dataclass(frozen=True)
class Layout:
    """The trainable parameters of a net with the groups that they belong to."""

    names: tuple[str, ...]
    """Names of the groups that have trainable parameters, in the order in which they were given."""
    members: tuple[tuple[ParameterSpec, int, Group], ...]
    """Every trainable parameter in the order of the flat buffer, with the index of its group in
    `names` and the group."""

    def segments(self, weight_decay: float) -> list[tuple[int, int, int, float, float, int]]:
        """One tuple per parameter for the core: (offset, length, group, lr_scale, decay, unit).

        unit: the number of elements that clip.Adaptive scales together, a row or a whole vector.
        """
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
                f"every group must have a name of its own, other than {DEFAULT!r}, which is the "
                f"group of all other parameters; got {group.name!r} again. Pass name=..."
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
                f"group {group.name!r} is left without parameters: all that match its patterns "
                "belong to groups before it. Put it first or leave it out."
            )
    kept = [(spec, owner) for spec, owner in owners if not owner.frozen]
    if not kept:
        raise ArgumentError(
            f"at least one parameter must be left to train, but all are frozen: {known}. Give "
            "frozen=True to fewer groups."
        )
    names = [
        str(group.name) for group in (*groups, rest) if any(owner is group for _, owner in kept)
    ]
    return Layout(
        tuple(names),
        tuple((spec, names.index(str(owner.name)), owner) for spec, owner in kept),
    )
