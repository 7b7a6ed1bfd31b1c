"""What a training records of its gradients every so often, and what was behind a bad update."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import horizon, lyapunov
from ._scaled import log10_norm
from ._updates import Carried, Updater
from .api import apply
from .data import Batch
from .errors import NonFiniteError
from .layers import Stack
from .loss import Loss
from .params import Grads, Params
from .state import sequences_of, state_size

__all__ = ["Watch", "grown_before"]

# What is looked at of a batch: a look takes some updates of as many steps, for small nets a dozen.
SEQUENCES = 4
STEPS = 2_000
PROBES = 2
EXPONENTS = 2
# Steps without a reset that a Lyapunov exponent needs to mean something.
LEAST_STEPS = 20
WINDOWS = 20


class Watch:
    """Looks at every `every`-th update; a clipped one is asked for its cause as often at most."""

    def __init__(self, updater: Updater, every: int) -> None:
        self.updater, self.every = updater, every
        self._before: NDArray[Any] | None = None
        self._explained: int | None = None

    def remember(self) -> None:
        """Keeps the parameters as they are before an update."""
        self._before = self.updater.params.flat.copy()

    def look(self, batch: Batch, start: Carried) -> dict[str, Any]:
        """For the update's line: memory length of each recurrent layer, and Lyapunov exponents.

        Both None where numbers leave their range; the exponents also for nets that read both ways
        and for batches with resets everywhere.
        """
        net = self.updater.net
        how: dict[str, Any] = {"memory": self.updater.memory, "threads": self.updater.threads}
        part = _part(batch, start)
        found: dict[str, Any] = {"memory_length": None, "lyapunov": None, "lyapunov_error": None}
        try:
            found["memory_length"] = [
                float(
                    np.median(
                        horizon.memory_length(
                            net, self.updater.params, **part, layer=layer, probes=PROBES, **how
                        )
                    )
                )
                for layer in range(len(net.recurrent))
            ]
            x, state = _longest_stretch(part)
            both = any(layer.bidirectional for layer in net.recurrent)
            if len(x) >= LEAST_STEPS and not both:
                count = min(EXPONENTS, state_size(net, 1))
                spectrum = lyapunov.spectrum(net, self.updater.params, x, count, state=state, **how)
                found["lyapunov"] = _plain(spectrum.exponents[0])
                found["lyapunov_error"] = _plain(spectrum.standard_error[0])
        except NonFiniteError:
            pass
        return found

    def cause(self, step: int, grads: Grads, batch: Batch, start: Carried) -> dict[str, Any]:
        """For a clipped update's line: the layer and the window of time that its gradient is from.

        Empty if a cause was told less than `every` updates ago.
        """
        if self._explained is not None and step - self._explained < self.every:
            return {}
        self._explained = step
        net = self.updater.net
        found: dict[str, Any] = {
            "clip_layer": _largest_layer(net, grads),
            "clip_window": None,
            "clip_share": None,
        }
        both = any(layer.bidirectional for layer in net.recurrent)
        if both or not isinstance(self.updater.loss, Loss) or self._before is None:
            return found
        shares = horizon.window_shares(
            net,
            Params(net, self._before),
            batch.x,
            batch.y,
            loss=self.updater.loss,
            windows=WINDOWS,
            weight=batch.weight,
            lengths=batch.lengths,
            reset=batch.reset,
            state=start,
            memory=self.updater.memory,
            threads=self.updater.threads,
        )
        top = int(np.argmax(shares.share))
        borders = shares.borders[top : top + 2]
        found["clip_window"] = [int(borders[0]), int(borders[1]) - 1]
        found["clip_share"] = round(float(shares.share[top]), 4)
        return found


def grown_before(
    updater: Updater, batch: Batch, start: Carried, error: NonFiniteError
) -> str | None:
    """What the layer's outputs did in the windows before a forward pass overflowed, in a sentence.

    None where there is nothing to tell: an overflow elsewhere, at the first steps, or both ways.
    """
    net = updater.net
    both = any(layer.bidirectional for layer in net.recurrent)
    if not 0 <= error.layer < len(net.recurrent) or error.step < WINDOWS or both:
        return None
    b = error.sequence
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
                memory=updater.memory,
                threads=updater.threads,
            )
        except NonFiniteError:  # with other random masks it may end sooner
            return None
        sizes.append(float(log10_norm(state[error.layer].h, 0)))
    rises = np.diff(sizes)
    if not np.isfinite(rises).all():
        return None
    # The last stretch of windows in which it rose without a break.
    first = len(rises)
    while first > 0 and rises[first - 1] > 0:
        first -= 1
    return (
        f"|h| of {net.recurrent_names[error.layer]} rose from 10^{sizes[first]:.1f} after step "
        f"{borders[first + 1] - 1} to 10^{sizes[-1]:.1f} after step {borders[-1] - 1}."
    )


def _largest_layer(net: Stack, grads: Grads) -> str:
    """The recurrent layer whose parameters have the largest gradient."""
    names = net.recurrent_names
    sizes = dict.fromkeys(names, -np.inf)
    for name, array in grads.items():
        place = name.partition(".")[0]
        for own in names:
            if own.partition(".")[0] == place:
                square = 2 * float(log10_norm(array, 0)) / np.log10(2)
                sizes[own] = float(np.logaddexp2(sizes[own], square))
    return max(names, key=sizes.__getitem__)


def _part(batch: Batch, start: Carried) -> dict[str, Any]:
    """The first steps of the first sequences of a batch, as arguments."""
    chosen = list(range(min(SEQUENCES, batch.x.shape[1])))

    def cut(array: Any) -> Any:
        return None if array is None else np.ascontiguousarray(array[:STEPS, chosen])

    x = cut(batch.x)
    lengths = None
    if batch.lengths is not None:
        lengths = np.minimum(np.asarray(batch.lengths)[chosen], len(x))
    return {
        "x": x,
        "lengths": lengths,
        "reset": cut(batch.reset),
        "state": None if start is None else sequences_of(start, chosen),
    }


def _longest_stretch(part: dict[str, Any]) -> tuple[NDArray[Any], Any]:
    """The longest stretch of the first sequence that is not cut by a reset, and its state."""
    x, reset, state = part["x"], part["reset"], part["state"]
    stop = len(x) if part["lengths"] is None else int(part["lengths"][0])
    cuts = [0, stop]
    if reset is not None:
        cuts = sorted({0, stop, *(int(t) for t in np.flatnonzero(reset[:stop, 0]))})
    stretches = [(end - begin, begin) for begin, end in pairwise(cuts)]
    length, begin = max(stretches, default=(0, 0))
    fresh = begin > 0 or (reset is not None and stop > 0 and bool(reset[0, 0]))
    first = None if fresh or state is None else sequences_of(state, [0])
    return np.ascontiguousarray(x[begin : begin + length, :1]), first


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]
