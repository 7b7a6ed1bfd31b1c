"""What is kept: descriptions that an optimizer is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from .._base.checks import choice, flag, float_in, store
from .._net.flat import ParameterOwner
from .._net.layers import Recurrent
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError

__all__ = ["Constraint", "Orthogonal", "SpectralNorm", "blocks_of", "by_name"]

How = Literal["clip", "scale", "reparametrise"]


@dataclass(frozen=True)
class Constraint:
    """What all constraints have in common; use one of those below.

    weights: one or several fnmatch patterns over parameter names, as "*.weight_hh" (the default) or
    "0.*"; what they match must be matrices.
    """

    _: KW_ONLY
    weights: str | Sequence[str] = "*.weight_hh"

    def __post_init__(self) -> None:
        kind = type(self).__name__
        one = isinstance(self.weights, str)
        patterns = (self.weights,) if one else self.weights
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(p, str) for p in patterns):
            raise DTypeError(f"{kind}.weights must be strings; got {self.weights!r}.")
        if not patterns:
            raise ArgumentError(f"{kind}.weights must hold at least one pattern; got none.")
        store(self, "weights", tuple(patterns))

    def names(self, net: Stack | ParameterOwner) -> list[str]:
        """The parameters that it is about.

        Raises ArgumentError for a pattern that matches nothing, or no matrix.
        """
        found = []
        for pattern in self.weights:
            matched = [s for s in net.parameter_specs if fnmatchcase(s.name, pattern)]
            if not matched:
                raise ArgumentError(
                    f"the pattern {pattern!r} of {type(self).__name__} matches no parameter; the "
                    f"net has {', '.join(spec.name for spec in net.parameter_specs)}."
                )
            for spec in matched:
                if len(spec.shape) != 2:
                    raise ArgumentError(
                        f"{type(self).__name__} acts on matrices; {spec.name} has shape "
                        f"{spec.shape}. Choose others with weights=."
                    )
                if spec.name not in found:
                    found.append(spec.name)
        return found


@dataclass(frozen=True)
class SpectralNorm(Constraint):
    """Keeps the largest singular value of weights at or below a limit.

    per_gate: each gate's block (H, .) of a recurrent layer's weights for itself, instead of the
    whole (G*H, .). how: after each step "clip" brings singular values above the limit down to it,
    the nearest such matrix (Frobenius norm); "scale" divides the whole matrix; "reparametrise"
    trains free weights V, with W = V * limit / max(limit, |V|) and the exact gradient through |V|,
    as torch.nn.utils.parametrizations.spectral_norm does for limit 1. The limit holds in exact
    arithmetic, up to 1e-6 of it for the roundings of float32.

    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Miyato et al. 2018, section 2 (the reparametrisation and its gradient, eq. 12);
    Sedghi, Gupta, Long 2019, section 3 (clipping of singular values).
    """

    limit: float = 1.0
    _: KW_ONLY
    per_gate: bool = False
    how: How = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, "limit", float_in("SpectralNorm.limit", self.limit, 0, open_low=True))
        store(self, "per_gate", flag("SpectralNorm.per_gate", self.per_gate))
        choice("SpectralNorm.how", self.how, get_args(How))


@dataclass(frozen=True)
class Orthogonal(Constraint):
    """Keeps square weights orthogonal: gate by gate, singular values all 1.

    What an optimizer's step D would do is turned into a rotation: W moves to W C(A) with the skew
    part A of W'D and the Cayley transform C(A) = (I - A/2)^-1 (I + A/2), which agrees with the step
    along the manifold to first order. W W' stays I to the roundings of the dtype. Weights start as
    the orthogonal matrices nearest to them.

    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Wen and Yin 2013, eq. 7 (the Cayley retraction); Helfrich, Willmott, Ye 2018;
    Arjovsky, Shah, Bengio 2016.
    """


def by_name(name: str | None, limit: float = 1.0) -> list[Constraint]:
    """What the commands offer: "spectral", "orthogonal", None for nothing; of recurrent weights."""
    if name is None:
        return []
    choice("constrain", name, ("spectral", "orthogonal"))
    return [SpectralNorm(limit)] if name == "spectral" else [Orthogonal()]


def blocks_of(net: Stack | ParameterOwner, name: str, by_gate: bool) -> int:
    """Into how many square or gate-sized blocks of rows a parameter is divided."""
    if not by_gate:
        return 1
    layer, own = net.layer_of(name)
    if isinstance(layer, Recurrent) and own.startswith(("weight_ih", "weight_hh")):
        return len(layer.cell.gates)
    return 1
