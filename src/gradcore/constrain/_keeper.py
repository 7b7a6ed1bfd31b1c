"""Applies constraints in an optimizer: before its step, after it, and in its state dict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.blas import single_threaded
from .._net.stack import Grads, Params
from ..errors import ArgumentError, DTypeError
from ._descriptions import Constraint, Orthogonal, SpectralNorm, blocks_of
from ._mask import Mask, MaskKeeper
from ._matrices import Array, cayley, clipped, largest, nearest_orthogonal, polished, top_pair

__all__ = ["ConstraintReport", "Keeper"]

# A norm counts as within the limit up to this relative excess, which float32 rounding can cause.
ROUNDING = 1e-6
# The relative error that the norm of a change may have: it is summed pairwise in float32.
SUMMING = 1e-5


@dataclass(frozen=True)
class ConstraintReport:
    """What a constraint did to one parameter in a step.

    norm: the largest spectral norm among its blocks after the optimizer's step and before the
    constraint acted; with how="reparametrise" it is that of the free weights. It is only an upper
    bound where the size of the updates alone proves that the limit holds, and NaN where the step
    left weights that are not finite. For a Mask it is the norm of what it changed.
    active: whether the constraint changed weights.
    """

    norm: float
    active: bool


@dataclass(eq=False)
class _Kept:
    """One parameter under one constraint. upper (N,): upper bounds of the norms of its blocks.

    last: the weights after the last step, as they are stored; the difference to the current ones is
    what a step or the user changed since. It is None after load_state_dict.
    """

    name: str
    constraint: Constraint
    blocks: int
    last: NDArray[Any] | None
    upper: Array = field(default_factory=lambda: np.zeros(0))
    free: NDArray[Any] | None = None  # the free weights V of how="reparametrise", else None
    top: tuple[Array, Array, Array] | None = None  # V's largest singular value and its vectors


class Keeper:
    """The constraints of one optimizer.

    Each block has an upper bound of its norm. A step that moves a matrix by d changes its norm by
    at most d (Weyl's inequality), so d is added to the bound, and the norm is computed anew only
    when the bound exceeds the limit. An exact norm takes 1.3 ms at H = 128; it is rarely needed
    while norms are well below the limit. Weights that something other than the optimizer changed
    are brought to the limit at the next step.
    """

    def __init__(self, params: Params, constraints: Sequence[Constraint]) -> None:
        if not isinstance(constraints, (tuple, list)) or not all(
            isinstance(c, Constraint) and type(c) is not Constraint for c in constraints
        ):
            raise DTypeError(
                "constraints must be a list of gradcore.constrain objects, such as "
                f"[gradcore.constrain.SpectralNorm(1.0)]; got {constraints!r}."
            )
        self.constraints = tuple(constraints)
        self._params = params
        self._kept: list[_Kept] = []
        self._masks: list[MaskKeeper] = []
        seen: set[str] = set()
        for constraint in self.constraints:
            for name in constraint.names(params.owner):
                if name in seen:
                    raise ArgumentError(
                        f"{name} can have one constraint, and two match it. Choose others with "
                        "weights=."
                    )
                seen.add(name)
                if isinstance(constraint, Mask):
                    self._masks.append(MaskKeeper.begin(params, name, constraint))
                    continue
                with single_threaded():
                    self._kept.append(self._begin(name, constraint))

    def __bool__(self) -> bool:
        return bool(self._kept or self._masks)

    # ---- around a step

    def prepare(self, grads: Grads) -> Grads:
        """Prepares the optimizer's step; returns the gradients that it should use, 0 where a weight
        is absent or fixed.

        With how="reparametrise" the step is made on the free weights V, so they replace W in the
        parameters until finish(), and their gradient replaces that of W.
        """
        for kept in self._kept:
            if kept.last is None:
                self._catch_up(kept)
            elif kept.free is not None and not np.array_equal(kept.last, self._params[kept.name]):
                kept.free, kept.top = self._params[kept.name].copy(), None  # set from outside
        if not self._masks and not any(kept.free is not None for kept in self._kept):
            return grads
        made = Grads(grads.owner, grads.flat.copy(), grads.exponent)
        for mask in self._masks:
            mask.clear_gradient(made)
        for kept in self._kept:
            if kept.free is None:
                continue
            assert isinstance(kept.constraint, SpectralNorm)
            v, arrived = self._blocks(kept, kept.free), self._blocks(kept, grads[kept.name])
            with single_threaded():
                top = kept.top or top_pair(v)
            through = _through_norm(v, arrived, kept.constraint.limit, top)
            made[kept.name] = self._whole(kept, through)
            kept.last = self._params[kept.name].copy()
            self._params[kept.name] = kept.free
        return made

    def abandon(self) -> None:
        """Restores the weights after a step that failed."""
        for kept in self._kept:
            if kept.free is not None and kept.last is not None:
                self._params[kept.name] = kept.last

    def finish(self, momenta: Sequence[NDArray[Any]] = ()) -> dict[str, ConstraintReport]:
        """Makes the constraints hold again after the optimizer's step; reports by parameter.

        momenta: flat arrays like the parameters, along whose negative the optimizer moves; what
        pushes weights against a bound is taken out of them.
        """
        reports = {kept.name: self._finish(kept) for kept in self._kept}
        for mask in self._masks:
            reports[mask.name] = ConstraintReport(*mask.project(self._params, momenta))
        return reports

    def _finish(self, kept: _Kept) -> ConstraintReport:
        report = self._held(kept)
        assert kept.last is not None
        np.copyto(kept.last, self._params[kept.name])
        return report

    def _held(self, kept: _Kept) -> ConstraintReport:
        constraint = kept.constraint
        assert kept.last is not None
        if isinstance(constraint, SpectralNorm) and kept.free is None:
            limit = constraint.limit * (1 + ROUNDING)
            kept.upper = kept.upper + self._moved(kept, kept.last)
            if kept.upper.max() <= limit:
                return ConstraintReport(float(kept.upper.max()), False)
        now = self._read(kept)
        if not np.isfinite(now).all():
            return ConstraintReport(np.nan, False)  # the next forward pass raises NonFiniteError
        if isinstance(constraint, SpectralNorm) and kept.free is None:
            with single_threaded():
                return self._bring_back(kept, constraint, now)
        with single_threaded():
            if isinstance(constraint, SpectralNorm):
                kept.free = self._params[kept.name].copy()
                kept.top = top_pair(now)
                values = kept.top[0]
                self._write(kept, now * _shrink(values, constraint.limit))
                return ConstraintReport(
                    float(values.max()), bool((values > constraint.limit).any())
                )
            before = self._blocks(kept, kept.last)
            moved = not np.array_equal(now, before)
            if moved:
                self._write(kept, polished(cayley(before, now - before)))
            return ConstraintReport(1.0, moved)

    def _moved(self, kept: _Kept, last: NDArray[Any]) -> Array:
        """An upper bound of the norm of each block's change since `last`, (N,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            change = self._params[kept.name] - last
            square = np.square(change, out=change).reshape(kept.blocks, -1).sum(axis=1)
        found: Array = np.sqrt(square.astype(np.float64)) * (1 + SUMMING)
        return found

    def _catch_up(self, kept: _Kept) -> None:
        """Fits bounds and free weights to the parameters after load_state_dict.

        The state that was loaded may belong to other weights than the parameters hold.
        """
        kept.last = self._params[kept.name].copy()
        if not isinstance(kept.constraint, SpectralNorm):
            return
        now = self._read(kept)
        with single_threaded():
            if kept.free is None:
                values = largest(now)
                if (values > kept.upper * (1 + ROUNDING)).any():
                    kept.upper = values
                return
            v = self._blocks(kept, kept.free)
            stated = v * _shrink(largest(v), kept.constraint.limit)
        if not np.allclose(stated, now, rtol=0, atol=ROUNDING * np.abs(stated).max()):
            kept.free = kept.last.copy()

    def _bring_back(self, kept: _Kept, constraint: SpectralNorm, now: Array) -> ConstraintReport:
        """Computes the norms and brings those above the limit down to it."""
        brought, kept.upper = _within(now, constraint)
        top = float(kept.upper.max())
        if top <= constraint.limit * (1 + ROUNDING):
            return ConstraintReport(top, False)
        self._write(kept, brought)
        kept.upper = np.minimum(kept.upper, constraint.limit)
        return ConstraintReport(top, True)

    # ---- state

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The upper bounds, the free weights and the fixed ones, as copies."""
        state: dict[str, NDArray[Any]] = {}
        for kept in self._kept:
            if kept.free is not None:
                state[f"constraint.{kept.name}.free"] = kept.free.copy()
            elif isinstance(kept.constraint, SpectralNorm):
                state[f"constraint.{kept.name}.upper"] = kept.upper.copy()
        for mask in self._masks:
            state[f"constraint.{mask.name}.held"] = mask.held.copy()
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Continues from a state_dict() of the same keys, shapes and dtypes."""
        for kept in self._kept:
            kept.last = kept.top = None
            if kept.free is not None:
                kept.free = state[f"constraint.{kept.name}.free"].copy()
            elif isinstance(kept.constraint, SpectralNorm):
                kept.upper = state[f"constraint.{kept.name}.upper"].copy()
        for mask in self._masks:
            mask.held = state[f"constraint.{mask.name}.held"].copy()

    # ---- blocks

    def _begin(self, name: str, constraint: Constraint) -> _Kept:
        orthogonal = isinstance(constraint, Orthogonal)
        by_gate = orthogonal or (isinstance(constraint, SpectralNorm) and constraint.per_gate)
        kept = _Kept(name, constraint, blocks_of(self._params.owner, name, by_gate), None)
        self._start(kept)
        kept.last = self._params[name].copy()
        return kept

    def _start(self, kept: _Kept) -> None:
        """Makes the weights satisfy the constraint at the start."""
        name, constraint, w = kept.name, kept.constraint, self._read(kept)
        if isinstance(constraint, Orthogonal):
            if w.shape[1] != w.shape[2]:
                raise ArgumentError(
                    f"Orthogonal needs a square matrix for each gate; {name} has blocks of shape "
                    f"{w.shape[1:]}. Choose others with weights=."
                )
            self._write(kept, nearest_orthogonal(w))
            return
        assert isinstance(constraint, SpectralNorm)
        if constraint.how == "reparametrise":
            kept.free = self._params[name].copy()
            self._write(kept, w * _shrink(largest(w), constraint.limit))
            return
        self._bring_back(kept, constraint, w)

    def _blocks(self, kept: _Kept, array: NDArray[Any]) -> Array:
        rows, columns = array.shape
        return array.reshape(kept.blocks, rows // kept.blocks, columns).astype(np.float64)

    def _whole(self, kept: _Kept, blocks: Array) -> NDArray[Any]:
        return blocks.reshape(self._params[kept.name].shape).astype(self._params.dtype)

    def _read(self, kept: _Kept) -> Array:
        return self._blocks(kept, self._params[kept.name])

    def _write(self, kept: _Kept, blocks: Array) -> None:
        self._params[kept.name] = self._whole(kept, blocks)


def _within(w: Array, constraint: SpectralNorm) -> tuple[Array, Array]:
    """The blocks brought to the limit, and their norms before that (N,).

    For how="clip" singular vectors are always computed along with the values, because a matrix that
    has reached the limit usually exceeds it again in the next step and then needs them.
    """
    if constraint.how == "clip":
        return clipped(w, constraint.limit)
    values = largest(w)
    return w * _shrink(values, constraint.limit), values


def _shrink(values: Array, limit: float) -> Array:
    """Factors (N, 1, 1) that bring norms to the limit where they are above it."""
    found: Array = np.minimum(1.0, limit / np.maximum(values, np.finfo(float).tiny))[:, None, None]
    return found


def _through_norm(v: Array, grad: Array, limit: float, top: tuple[Array, Array, Array]) -> Array:
    """The gradient for V from the gradient G for W = V * limit / max(limit, |V|), (N, m, n).

    Where |V| > limit it is limit/|V| (G - <G, V>/|V| u v'), elsewhere G. top: |V|, u and v, the
    largest singular value and its vectors.
    """
    value, left, right = top
    outer = left[:, :, None] * right[:, None, :]
    along = np.einsum("bmn,bmn->b", grad, v) / np.maximum(value, np.finfo(float).tiny)
    inside = grad - along[:, None, None] * outer
    scale = _shrink(value, limit)
    return np.where((value > limit)[:, None, None], scale * inside, grad)
