"""Descriptions of constraints, which an optimizer takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, get_args

from .._base.checks import choice, flag, float_in, store
from .._net.flat import ParameterOwner
from .._net.layers import Recurrent
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError

__all__ = ["Constraint", "Orthogonal", "SpectralNorm", "blocks_of", "by_name", "gates_of"]

How = Literal["clip", "scale", "reparametrise"]


@dataclass(frozen=True)
class Constraint:
    """Base class of SpectralNorm, Orthogonal and Mask.

    weights: one or several fnmatch patterns for names of parameters, such as "*.weight_hh*" (the
    default, recurrent weights of both directions) or "0.*"; for SpectralNorm and Orthogonal all
    parameters that they match must be matrices.
    """

    _: KW_ONLY
    weights: str | Sequence[str] = "*.weight_hh*"

    matrices_only: ClassVar[bool] = True

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
        """The names of the parameters that are constrained.

        Raises ArgumentError for a pattern that matches nothing or something that is not a matrix.
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
                if self.matrices_only and len(spec.shape) != 2:
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

    per_gate: constrain each gate's block (H, .) of a recurrent layer's weights separately instead
    of the whole matrix (G*H, .). how: what is done after each step. "clip" lowers singular values
    above the limit to the limit, which gives the nearest such matrix in the Frobenius norm; "scale"
    divides the whole matrix; "reparametrise" trains free weights V, with
    W = V * limit / max(limit, |V|) and the exact gradient through |V|, which is similar to
    torch.nn.utils.parametrizations.spectral_norm. The limit may be exceeded by a factor of
    1 + 1e-6, because weights are rounded to float32.

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
    """Keeps square weights orthogonal, gate by gate: all their singular values are 1.

    The optimizer's step D is turned into a rotation: W becomes W C(A), where A is the
    skew-symmetric part of W'D and C(A) = (I - A/2)^-1 (I + A/2) its Cayley transform. This agrees
    to first order with the part of the step that is tangent to the orthogonal matrices. W W' stays
    I up to rounding of the dtype. At the start each matrix is replaced by the nearest orthogonal
    one.

    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Wen and Yin 2013, eq. 7 (the Cayley retraction); Helfrich, Willmott, Ye 2018;
    Arjovsky, Shah, Bengio 2016.
    """


def by_name(name: str | None, limit: float = 1.0) -> list[Constraint]:
    """The constraint of recurrent weights that commands call `name`; none for None.

    name: "spectral" (SpectralNorm with this limit) or "orthogonal".
    """
    if name is None:
        return []
    choice("constrain", name, ("spectral", "orthogonal"))
    return [SpectralNorm(limit)] if name == "spectral" else [Orthogonal()]


def blocks_of(net: Stack | ParameterOwner, name: str, by_gate: bool) -> int:
    """The number of blocks of rows of a parameter that are constrained separately.

    It is the number of gates for weights and biases of recurrent layers if by_gate, and 1
    otherwise; recurrent weights in blocks have so many blocks for each gate. Raises ArgumentError
    for these if by_gate is false and there are several gates, whose rows do not lie together.
    """
    gates = gates_of(net, name)
    layer, own = net.layer_of(name)
    heads = getattr(layer, "blocks", None) if own.startswith("weight_hh") else None
    if heads is None:
        return gates if by_gate else 1
    if gates > 1 and not by_gate:
        raise ArgumentError(
            f"{name} has {heads} blocks for each of {gates} gates. Constrain them one by one with "
            "per_gate=True."
        )
    return gates * int(heads)


def gates_of(net: Stack | ParameterOwner, name: str) -> int:
    """The number of gates, each with a block of rows, of a parameter; 1 if it has none."""
    layer, own = net.layer_of(name)
    if isinstance(layer, Recurrent) and own.startswith(("weight_", "bias_")):
        return len(layer.cell.gates)
    return 1
