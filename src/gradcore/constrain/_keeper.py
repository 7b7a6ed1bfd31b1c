"""Keeps constraints in an optimizer: before its step, after it, and in its state dict."""

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
from ._matrices import Array, cayley, clipped, largest, nearest_orthogonal, polished, top_pair

__all__ = ["ConstraintReport", "Keeper"]

# Above this much of the limit a bound is looked at again: the roundings of float32.
ROUNDING = 1e-6
# What the norm of a change may lack: it is summed in float32, pairwise.
SUMMING = 1e-5


@dataclass(frozen=True)
class ConstraintReport:
    """What a constraint did to one parameter in a step.

    norm: the largest spectral norm among its blocks behind the optimizer's step, before anything
    was done about it; with reparametrise that of the free weights. It is an upper bound where it is
    certain from the size of the updates alone that the limit holds, and NaN where the step left
    weights that are not finite. active: whether weights were changed.
    """

    norm: float
    active: bool


@dataclass(eq=False)
class _Kept:
    """One parameter under one constraint. upper (N,): what its blocks' norms are at most.

    last: the weights behind the last step, as they are stored. What moved them since, a step or
    something else, is the difference. None behind a loaded state.
    """

    name: str
    constraint: Constraint
    blocks: int
    last: NDArray[Any] | None
    upper: Array = field(default_factory=lambda: np.zeros(0))
    free: NDArray[Any] | None = None  # of reparametrise: V, as the parameter is stored
    top: tuple[Array, Array, Array] | None = None  # V's largest singular value and its vectors


class Keeper:
    """The constraints of one optimizer.

    A bound is carried along: a step that moves a matrix by d changes its norm by d at most (Weyl),
    so norms are computed again only where the carried bound passes the limit. At H = 128 that
    takes 1.3 ms for an exact one; with a margin it is hardly ever asked for. Weights that something
    else than the optimizer changed are brought to the limit in the next step.
    """

    def __init__(self, params: Params, constraints: Sequence[Constraint]) -> None:
        if not isinstance(constraints, (tuple, list)) or not all(
            isinstance(c, Constraint) and type(c) is not Constraint for c in constraints
        ):
            raise DTypeError(
                "constraints must be a list of gradcore.constrain objects, as "
                f"[gradcore.constrain.SpectralNorm(1.0)]; got {constraints!r}."
            )
        self.constraints = tuple(constraints)
        self._params = params
        self._kept: list[_Kept] = []
        seen: set[str] = set()
        for constraint in self.constraints:
            for name in constraint.names(params.owner):
                if name in seen:
                    raise ArgumentError(f"{name} is under two constraints; it can have one.")
                seen.add(name)
                with single_threaded():
                    self._kept.append(self._begin(name, constraint))

    def __bool__(self) -> bool:
        return bool(self._kept)

    # ---- around a step

    def prepare(self, grads: Grads) -> Grads:
        """Before the optimizer's step: free weights take their places; returns their gradients."""
        for kept in self._kept:
            if kept.last is None:
                self._catch_up(kept)
            elif kept.free is not None and not np.array_equal(kept.last, self._params[kept.name]):
                kept.free, kept.top = self._params[kept.name].copy(), None  # set from outside
        if not any(kept.free is not None for kept in self._kept):
            return grads
        made = Grads(grads.owner, grads.flat.copy(), grads.exponent)
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
        """After a step that did not happen: weights as they were."""
        for kept in self._kept:
            if kept.free is not None and kept.last is not None:
                self._params[kept.name] = kept.last

    def finish(self) -> dict[str, ConstraintReport]:
        """After the optimizer's step: constraints hold again."""
        return {kept.name: self._finish(kept) for kept in self._kept}

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
            return ConstraintReport(np.nan, False)  # the next pass says so
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
        """What the norm of a block's change is at most, (N,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            change = self._params[kept.name] - last
            square = np.square(change, out=change).reshape(kept.blocks, -1).sum(axis=1)
        found: Array = np.sqrt(square.astype(np.float64)) * (1 + SUMMING)
        return found

    def _catch_up(self, kept: _Kept) -> None:
        """After a loaded state, which need not be of these weights."""
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
        """Norms computed, and brought to the limit where they pass it."""
        brought, kept.upper = _within(now, constraint)
        top = float(kept.upper.max())
        if top <= constraint.limit * (1 + ROUNDING):
            return ConstraintReport(top, False)
        self._write(kept, brought)
        kept.upper = np.minimum(kept.upper, constraint.limit)
        return ConstraintReport(top, True)

    # ---- state

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Carried bounds and free weights."""
        state: dict[str, NDArray[Any]] = {}
        for kept in self._kept:
            if kept.free is not None:
                state[f"constraint.{kept.name}.free"] = kept.free.copy()
            elif isinstance(kept.constraint, SpectralNorm):
                state[f"constraint.{kept.name}.upper"] = kept.upper.copy()
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """From arrays of the same keys, shapes and dtypes."""
        for kept in self._kept:
            kept.last = kept.top = None
            if kept.free is not None:
                kept.free = state[f"constraint.{kept.name}.free"].copy()
            elif isinstance(kept.constraint, SpectralNorm):
                kept.upper = state[f"constraint.{kept.name}.upper"].copy()

    # ---- blocks

    def _begin(self, name: str, constraint: Constraint) -> _Kept:
        orthogonal = isinstance(constraint, Orthogonal)
        by_gate = orthogonal or (isinstance(constraint, SpectralNorm) and constraint.per_gate)
        kept = _Kept(name, constraint, blocks_of(self._params.owner, name, by_gate), None)
        self._start(kept)
        kept.last = self._params[name].copy()
        return kept

    def _start(self, kept: _Kept) -> None:
        """What the weights are at first."""
        name, constraint, w = kept.name, kept.constraint, self._read(kept)
        if isinstance(constraint, Orthogonal):
            if w.shape[1] != w.shape[2]:
                raise ArgumentError(
                    f"Orthogonal needs square matrices, gate by gate; {name} has blocks of "
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
    """Blocks brought to the limit; their norms before (N,).

    Vectors are computed with the values, for whoever passed the limit once does it again.
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
    """The gradient of V from that of W = V * limit / max(limit, |V|), (N, m, n).

    Where |V| > limit: limit/|V| (G - <G, V>/|V| u v'). top: |V|, u and v.
    """
    value, left, right = top
    outer = left[:, :, None] * right[:, None, :]
    along = np.einsum("bmn,bmn->b", grad, v) / np.maximum(value, np.finfo(float).tiny)
    inside = grad - along[:, None, None] * outer
    scale = _shrink(value, limit)
    return np.where((value > limit)[:, None, None], scale * inside, grad)
