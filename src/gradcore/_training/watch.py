"""Measurements of gradients during a training, and causes of clipped and failed updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import horizon, lyapunov
from .._base.scaled import log10_norm
from .._engine.calls import apply
from .._net.stack import Grads, Params
from .._net.state import LayerState, sequences_of, state_size
from ..data import Batch
from ..errors import ArgumentError, GradcoreError, NonFiniteError
from ..jacobian import hidden_gradients
from ..loss import Heads, Loss
from .updates import Carried, Updater

__all__ = ["WATCHED", "Watch", "grown_before"]

# A line of metrics that has one of these fields has measurements of a watch or a monitor.
WATCHED = frozenset({"watched_steps", "clip_layer", "sharpness"})

# The part of a batch that is measured: its longest sequences, and their last steps. A measurement
# takes the time of about three updates for an LSTM of 128 units and one sequence, of eight for one
# of 16 units, and of less than two if the batch has 8 sequences. Most of this is for the Lyapunov
# exponents, which is why they use fewer steps.
SEQUENCES = 4
STEPS = 2_000
EXPONENT_STEPS = 500
EXPONENTS = 2
# The fewest steps without a reset from which Lyapunov exponents are estimated.
LEAST_STEPS = 20
WINDOWS = 20


class Watch:
    """Measures every `every`-th update, and explains at most one clipped update in as many."""

    def __init__(self, updater: Updater, every: int) -> None:
        for place in updater.net.windowed:
            raise ArgumentError(
                "watch needs a net whose layers all have the steps of x; layer "
                f"{place} ({type(updater.net.layers[place]).__name__}) shortens time or looks "
                "ahead. Train without watch."
            )
        self.updater, self.every = updater, every
        self._how: dict[str, Any] = {"memory": updater.memory, "threads": updater.threads}
        self._before: NDArray[Any] | None = None

    def look(self, batch: Batch, start: Carried) -> dict[str, Any]:
        """Measures; returns entries for the line of the update that is about to be made.

        These are memory_length and horizon of each recurrent layer, hidden_gradient_log10,
        watched_steps, lyapunov and lyapunov_error. What could not be measured is None, and
        watch_missing has the reason.
        """
        net, params = self.updater.net, self.updater.params
        found: dict[str, Any] = {
            **dict.fromkeys(("watched_steps", "memory_length", "horizon")),
            **dict.fromkeys(("hidden_gradient_log10", "lyapunov", "lyapunov_error")),
        }
        missing: dict[str, str] = {}

        def tried(name: str, look: Callable[[], dict[str, Any]]) -> None:
            try:
                found.update(look())
            except GradcoreError as error:
                missing[name] = str(error)

        try:
            part = self._part(batch, start)
        except GradcoreError as error:
            return found | {"watch_missing": {"watched_steps": str(error)}}
        found["watched_steps"] = [part.first, part.first + len(part.inputs["x"]) - 1]

        def reaches() -> dict[str, Any]:
            made = [
                horizon.reach(net, params, **part.inputs, layer=layer, probes=1, **self._how)
                for layer in range(len(net.recurrent))
            ]
            return {
                "memory_length": [float(np.median(one.memory_length())) for one in made],
                "horizon": _horizon(made),
            }

        def hidden() -> dict[str, Any]:
            loss = self.updater.loss
            if not isinstance(loss, Loss) or _is_whole(loss):
                what = type(loss).__name__ if isinstance(loss, Loss) else "a Python loss function"
                raise ArgumentError(f"{what} may not be defined for a part of the steps.")
            norms = [
                hidden_gradients(
                    net,
                    params,
                    **part.inputs,
                    y=part.y,
                    weight=part.weight,
                    loss=loss,
                    layer=layer,
                    norms_only=True,
                    **self._how,
                ).norm_log10
                for layer in range(len(net.recurrent))
            ]
            return {"hidden_gradient_log10": [_windows(layer) for layer in norms]}

        def exponents() -> dict[str, Any]:
            x, start = self._stretch(part)
            if len(x) < LEAST_STEPS:
                raise ArgumentError(
                    f"the steps looked at have no {LEAST_STEPS} steps in a row without a reset."
                )
            count = min(EXPONENTS, state_size(net, 1))
            spectrum = lyapunov.spectrum(net, params, x, count, **start, **self._how)
            return {
                "lyapunov": _plain(spectrum.exponents[0]),
                "lyapunov_error": _plain(spectrum.standard_error[0]),
            }

        tried("memory_length", reaches)
        tried("hidden_gradient_log10", hidden)
        tried("lyapunov", exponents)
        return found | ({"watch_missing": missing} if missing else {})

    def remember(self, step: int, explained: int | None) -> None:
        """Keeps a copy of the parameters before update `step` if a clip would be explained."""
        due = explained is None or step - explained >= self.every
        if not due or self.updater.optimizer.clip is None:
            self._before = None
        elif self._before is None:
            self._before = self.updater.params.flat.copy()
        else:
            np.copyto(self._before, self.updater.params.flat)

    def cause(self, grads: Grads, batch: Batch, start: Carried) -> dict[str, Any]:
        """Entries for the line of a clipped update: the layer and time window of its gradient.

        There are none if remember() kept no parameters.
        """
        if self._before is None:
            return {}
        net, loss = self.updater.net, self.updater.loss
        found: dict[str, Any] = {
            "clip_layer": _largest_layer(self.updater, grads),
            "clip_window": None,
            "clip_share": None,
        }
        try:
            if not isinstance(loss, Loss):
                raise ArgumentError("a Python loss function cannot be split into windows.")
            shares = horizon.window_shares(
                net,
                Params(net, self._before),
                batch.x,
                batch.y,
                loss=loss,
                windows=WINDOWS,
                weight=batch.weight,
                lengths=batch.lengths,
                reset=batch.reset,
                state=start,
                static=batch.static,
                **self._how,
            )
        except GradcoreError as error:
            return found | {"watch_missing": {"clip_window": str(error)}}
        top = int(np.argmax(shares.share))
        borders = shares.borders[top : top + 2]
        found["clip_window"] = [int(borders[0]), int(borders[1]) - 1]
        found["clip_share"] = round(float(shares.share[top]), 4)
        return found

    # ---- parts of a batch

    def _part(self, batch: Batch, start: Carried) -> _Part:
        """The last steps of the longest sequences, with the state before them."""
        steps, count = batch.x.shape[:2]
        lengths = np.full(count, steps) if batch.lengths is None else np.asarray(batch.lengths)
        # Sequences of the same length stay in their order.
        chosen = sorted(np.argsort(-lengths, kind="stable")[:SEQUENCES].tolist())
        stop = int(lengths[chosen].max())
        first = max(0, stop - STEPS)
        chosen = [b for b in chosen if lengths[b] > first]
        state = None if start is None else sequences_of(start, chosen)
        if first > 0:
            state = (
                None
                if self.updater.net.bidirectional
                else self._state_at(batch, chosen, first, state)
            )

        def cut(array: Any, every_step: bool = True) -> Any:
            if array is None:
                return None
            rows = array[first:stop] if every_step else array
            return np.ascontiguousarray(rows[:, chosen] if every_step else rows[chosen])

        inputs = {
            "x": cut(batch.x),
            "lengths": None if batch.lengths is None else lengths[chosen] - first,
            "reset": cut(batch.reset),
            "state": state,
            "static": cut(batch.static, False),
        }
        loss, pooled = self.updater.loss, self.updater.net.pool is not None

        def targets(given: Any) -> Any:
            if isinstance(loss, Heads) and isinstance(given, Mapping):
                last = {name: pooled or own.step == "last" for name, own, _ in loss.entries}
                return {name: cut(own, not last[name]) for name, own in given.items()}
            at_end = pooled or (isinstance(loss, Loss) and loss.step == "last")
            return cut(given, not at_end)

        whole = isinstance(loss, Loss) and _is_whole(loss)  # its y may have any form
        return _Part(first, inputs, None if whole else targets(batch.y), targets(batch.weight))

    def _state_at(
        self, batch: Batch, chosen: list[int], stop: int, state: Carried
    ) -> tuple[LayerState, ...]:
        """The state of the chosen sequences, none of which is shorter, after `stop` steps."""
        return self._forward(
            np.ascontiguousarray(batch.x[:stop, chosen]),
            None if batch.reset is None else np.ascontiguousarray(batch.reset[:stop, chosen]),
            state,
            None if batch.static is None else batch.static[chosen],
        )

    def _stretch(self, part: _Part) -> tuple[NDArray[Any], dict[str, Any]]:
        """The end of the first sequence's longest stretch without a reset; state and static."""
        x, reset, state = (part.inputs[name] for name in ("x", "reset", "state"))
        lengths = part.inputs["lengths"]
        stop = len(x) if lengths is None else int(lengths[0])
        cuts = [0, stop]
        if reset is not None:
            cuts = sorted({0, stop, *(int(t) for t in np.flatnonzero(reset[:stop, 0]))})
        _, begin, end = max((b - a, a, b) for a, b in pairwise(cuts))
        fresh = begin > 0 or (reset is not None and bool(reset[0, 0]))
        own = None if fresh or state is None else sequences_of(state, [0])
        static = part.inputs["static"]
        static = None if static is None else static[:1]
        first = max(begin, end - EXPONENT_STEPS)
        if first > begin and not self.updater.net.bidirectional:
            own = self._forward(np.ascontiguousarray(x[begin:first, :1]), None, own, static)
        return np.ascontiguousarray(x[first:end, :1]), {"state": own, "static": static}

    def _forward(
        self, x: NDArray[Any], reset: NDArray[Any] | None, state: Carried, static: Any
    ) -> tuple[LayerState, ...]:
        net, params = self.updater.net, self.updater.params
        return apply(net, params, x, reset=reset, state=state, static=static, **self._how)[1]


def _is_whole(loss: Loss) -> bool:
    """Whether it needs the outputs of all steps at once, if only of one of several heads."""
    return loss.kind == "whole" or (isinstance(loss, Heads) and bool(loss.whole))


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a batch, from step `first` on: x, masks and initial state, targets, weights."""

    first: int
    inputs: dict[str, Any]
    y: Any
    weight: Any


def grown_before(
    updater: Updater, batch: Batch, start: Carried, error: NonFiniteError
) -> str | None:
    """A sentence that says why a forward pass overflowed: bad input, or a state that grew.

    None if there is no such reason: the error is not in a recurrent layer, happened in the first
    steps or in a bidirectional net, or the state did not grow.
    """
    net = updater.net
    if not 0 <= error.layer < len(net.recurrent):
        return None
    b = error.sequence
    if np.asarray(batch.x).dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(batch.x[: error.step + 1, b]).all(axis=-1))
        if len(bad):
            return f"x of sequence {b} is not finite at step {bad[0]}: check the data."
    if error.step < WINDOWS or net.bidirectional:
        return None
    borders = [error.step * i // WINDOWS for i in range(WINDOWS + 1)]
    state = None if start is None else sequences_of(start, [b])
    sizes = []
    for t0, t1 in pairwise(borders):
        x = np.ascontiguousarray(batch.x[t0:t1, b : b + 1])
        reset = None if batch.reset is None else batch.reset[t0:t1, b : b + 1].copy()
        try:
            _, state = apply(
                net,
                updater.params,
                x,
                reset=reset,
                state=state,
                static=None if batch.static is None else batch.static[b : b + 1],
                memory=updater.memory,
                threads=updater.threads,
            )
        except GradcoreError:  # without the update's random masks it may overflow earlier
            return None
        sizes.append(float(log10_norm(state[error.layer].h, 0)))
    rises = np.diff(sizes)
    if not np.isfinite(rises).all():
        return None
    # Find the last windows over which the norm rose without a break.
    first = len(rises)
    while first > 0 and rises[first - 1] > 0:
        first -= 1
    if f"{sizes[first]:.1f}" == f"{sizes[-1]:.1f}":
        return None
    return (
        f"|h| of {net.recurrent_names[error.layer]} rose from 10^{sizes[first]:.1f} after step "
        f"{borders[first + 1] - 1} to 10^{sizes[-1]:.1f} after step {borders[-1] - 1}."
    )


def _largest_layer(updater: Updater, grads: Grads) -> str:
    """The recurrent layer whose parameters have the largest gradient; frozen ones do not count."""
    names = updater.net.recurrent_names
    sizes = dict.fromkeys(names, -np.inf)
    for name in updater.optimizer.trained:
        place = name.partition(".")[0]
        for own in names:
            if own.partition(".")[0] == place:
                square = 2 * float(log10_norm(grads[name], 0)) / np.log10(2)
                sizes[own] = float(np.logaddexp2(sizes[own], square))
    return max(names, key=sizes.__getitem__)


def _horizon(made: list[horizon.Reach]) -> dict[str, Any]:
    """log10 of the gradient of the last outputs relative to lag 0, by layer and lag."""
    longest = int(max(made[0].ends)) - 1
    lags = [0, *(2**i for i in range(longest.bit_length()) if 2**i <= longest)]
    layers = []
    for one in made:
        left = []
        for lag in lags:
            rows = [b for b, end in enumerate(one.ends) if end > lag]
            at = [one.norm_log10[one.ends[b] - 1 - lag, b] for b in rows]
            whole = [one.norm_log10[one.ends[b] - 1, b] for b in rows]
            with np.errstate(invalid="ignore"):
                left.append(np.median(np.subtract(at, whole)))
        layers.append(_plain(np.array(left)))
    return {"lags": lags, "norm_log10": layers}


def _windows(norm_log10: NDArray[np.float64]) -> list[float | None]:
    """log10 of the root mean square of norms (T, B) in up to WINDOWS windows of equal length."""
    steps = len(norm_log10)
    count = min(WINDOWS, steps)
    found = []
    for i in range(count):
        part = norm_log10[steps * i // count : steps * (i + 1) // count]
        most = part.max()
        mean = np.mean(10 ** (2 * (part - most))) if np.isfinite(most) else 1.0
        found.append(most + 0.5 * np.log10(mean))
    return _plain(np.array(found))


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]
