"""Absent and fixed weights and fixed signs: descriptions, and what keeps them in an optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._base.checks import flag, store
from .._net.flat import FlatArrays, ParameterOwner
from .._net.stack import Params
from ..errors import ArgumentError, DTypeError, ShapeError
from ._descriptions import Constraint, gates_of

__all__ = ["Mask", "MaskKeeper", "dale"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class Mask(Constraint):
    """Keeps weights absent, of one sign, or as they are: sparse connections, Dale's law.

    present: booleans; where it is False, a weight stays exactly 0. None: all are present.
    sign: 1 where a weight must not be negative, -1 where it must not be positive, 0 where it may
    have either sign. None: all may.
    fixed: booleans; where it is True, a weight keeps the value that it has when the optimizer is
    made. None: no weight does.
    All have the shape of the parameter, or one that NumPy broadcasts to it; for recurrent layers
    also to the block of one gate, (H, I) of weight_ih or (H, H) of weight_hh, and then it holds for
    each gate. A sign of shape (H,) is that of each column of weight_hh, of all that one unit sends
    (see dale). weights may match parameters of any shape, such as biases.

    At the start and after each step weights that break the rule become 0, which is the nearest
    value that keeps it. Gradients of absent and fixed weights are 0 for the optimizer, its clip and
    its report; momentum that pushes a weight against the bound at 0 becomes 0 there, so that the
    weight leaves the bound as soon as its gradient turns.
    Raises DTypeError or ArgumentError for other values, and for no rule at all; the
    optimizer raises ShapeError for shapes that do not fit.
    Reference: Bertsekas 1999, section 2.3 (projected gradients); Song, Yang, Wang 2016 (masks in
    recurrent nets).
    """

    present: ArrayLike | None = None
    _: KW_ONLY
    sign: ArrayLike | None = None
    fixed: ArrayLike | None = None

    matrices_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.present is None and self.sign is None and self.fixed is None:
            raise ArgumentError("Mask needs present, sign or fixed; got none of them.")
        for name in ("present", "fixed"):
            if getattr(self, name) is not None:
                array = np.array(getattr(self, name))
                if array.dtype != np.bool_:
                    raise DTypeError(
                        f"Mask.{name} must be booleans, as of mask != 0; got {array.dtype}. sign= "
                        "takes 1, 0 and -1."
                    )
                store(self, name, _frozen(array))
        if self.sign is not None:
            sign = np.array(self.sign)
            if sign.dtype.kind not in "iuf" or not np.isin(sign, (-1, 0, 1)).all():
                raise ArgumentError(
                    "Mask.sign must be 1, -1 and 0, which stands for either sign; got "
                    f"{sign.dtype} with values such as {sign.reshape(-1)[:3]}."
                )
            store(self, "sign", _frozen(sign.astype(np.int8)))

    def __repr__(self) -> str:
        # Long arrays are told by a checksum, by which a training that is resumed knows its mask.
        told = [f"{name}={_told(getattr(self, name))}" for name in ("present", "sign", "fixed")]
        return f"Mask({', '.join(told)}, weights={self.weights!r})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other) if isinstance(other, Mask) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))


def dale(
    sign: ArrayLike,
    *,
    present: ArrayLike | None = None,
    self_connections: bool = True,
    weights: str | Sequence[str] = "*.weight_hh*",
) -> Mask:
    """Dale's law for recurrent weights: a unit excites or inhibits all units that it reaches.

    sign: (H,), 1 for units that excite and -1 for units that inhibit; they are the signs of the
    columns of weight_hh, gate by gate. present: (H, H) booleans, False where there is no
    connection, [to, from]. self_connections=False leaves the diagonal absent. An optimizer sets
    weights of the wrong sign to 0 at the start; to begin with all connections, set
    `params[name] = abs(params[name]) * sign` before.
    Raises ArgumentError for other signs.
    Reference: Dale 1935; Song, Yang, Wang 2016, eq. 9.
    """
    signs = np.array(sign)
    if signs.ndim != 1 or signs.dtype.kind not in "iuf" or not np.isin(signs, (-1, 1)).all():
        raise ArgumentError(
            f"dale needs a 1 or -1 for each unit, (H,); got shape {signs.shape} with values such "
            f"as {signs.reshape(-1)[:3]}."
        )
    if not flag("self_connections", self_connections):
        others = ~np.eye(signs.size, dtype=bool)
        present = others if present is None else np.asarray(present) & others
    return Mask(present, sign=signs, weights=weights)


@dataclass(eq=False)
class MaskKeeper:
    """One parameter under a Mask.

    span: its place in flat arrays. idle, not_negative and not_positive have its shape and say which
    weights have which rule; idle ones have the values `held`, 0 where they are absent.
    """

    name: str
    span: slice
    idle: Bools
    not_negative: Bools
    not_positive: Bools
    held: NDArray[Any]

    @staticmethod
    def begin(params: Params, name: str, mask: Mask) -> MaskKeeper:
        """Projects the parameter, and keeps what the next steps need."""
        shape = params[name].shape
        present, sign, fixed = (
            _fitted(params.owner, name, shape, what, getattr(mask, what))
            for what in ("present", "sign", "fixed")
        )
        absent = np.zeros(shape, bool) if present is None else ~present
        idle = absent if fixed is None else absent | fixed
        nothing = np.zeros(shape, bool)
        kept = MaskKeeper(
            name,
            next(slice(s.start, s.stop) for s in params.owner.parameter_specs if s.name == name),
            idle,
            nothing if sign is None else (sign > 0) & ~idle,
            nothing if sign is None else (sign < 0) & ~idle,
            np.where(absent, 0, params[name])[idle].astype(params.dtype),
        )
        kept.project(params, ())
        return kept

    def clear_gradient(self, grads: FlatArrays) -> None:
        """Sets the gradient of absent and fixed weights to 0."""
        grads[self.name][self.idle] = 0

    def project(self, params: Params, momenta: Sequence[NDArray[Any]]) -> tuple[float, bool]:
        """Makes the rule hold; returns the norm of the change, and if there was any.

        momenta: flat arrays like params.flat, along whose negative the optimizer moves.
        """
        w = params[self.name]
        low, high = self.not_negative & (w < 0), self.not_positive & (w > 0)
        out = low | high
        moved = w[self.idle] - self.held
        lost = np.concatenate([w[out], moved]).astype(np.float64)
        w[out] = 0
        w[self.idle] = self.held
        for flat in momenta:
            moment = flat[self.span].reshape(w.shape)
            moment[self.idle | (low & (moment > 0)) | (high & (moment < 0))] = 0
        norm = float(np.linalg.norm(lost)) if np.isfinite(w).all() else np.nan
        return norm, bool(out.any() or moved.any())


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _told(array: NDArray[Any] | None) -> str:
    if array is None:
        return "None"
    if array.size <= 8:
        return repr(array.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
    return f"<{'x'.join(map(str, array.shape))} {array.dtype}, {digest}>"


def _fitted(
    owner: ParameterOwner, name: str, shape: tuple[int, ...], what: str, array: Any
) -> NDArray[Any] | None:
    """An array of a mask in the shape of a parameter."""
    if array is None:
        return None
    gates = gates_of(owner, name)
    blocks = (gates, shape[0] // gates, *shape[1:])
    for wanted in (shape, blocks):
        try:
            return np.broadcast_to(array, wanted).reshape(shape)
        except ValueError:
            continue
    block = f", or {blocks[1:]} for each gate" if gates > 1 else ""
    raise ShapeError(
        f"Mask.{what} must have the shape of {name}, {shape}{block}, or one that NumPy broadcasts "
        f"to it; got {array.shape}."
    )
