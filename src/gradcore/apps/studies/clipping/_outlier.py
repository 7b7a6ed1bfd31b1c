"""Measures how long one outlier in a stream of gradients disturbs an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .... import clip
from ...._net.cells import RNN
from ...._net.stack import Grads, Params, Stack
from ._ways import OPTIMIZERS

__all__ = ["Contamination", "adam_theory", "contamination"]

# The gradient of step AT is FACTOR times as large as the others; AFTER steps from there on are
# measured.
FACTOR, AT, AFTER = 100.0, 200, 5_000
# An update counts as disturbed if its relative difference from the undisturbed one is larger.
DISTURBED = 0.1
NET = Stack(RNN(2, 8))


@dataclass(frozen=True, eq=False)
class Contamination:
    """The effect of an outlier under one optimizer with one clip.

    ratio (n,): |update| divided by that of the stream without the outlier, from the outlier's step
    on. disturbed: the number of steps after which no update is off by more than a tenth. theory
    (n,): the formula for Adam without a clip, else None.
    """

    optimizer: str
    clip: str
    ratio: NDArray[np.float64]
    disturbed: int
    theory: NDArray[np.float64] | None


def clips_for(size: int) -> dict[str, clip.Clip | None]:
    """Clips with limits that ordinary gradients, of norm sqrt(size), hardly ever reach."""
    norm = float(np.sqrt(size))
    return {
        "none": None,
        "value": clip.Value(4.0),
        "global norm": clip.GlobalNorm(1.5 * norm),
        "per parameter": clip.ParameterNorm(1.5 * norm),
        "adaptive": clip.Adaptive(2.0, eps=1.0),
        "z-score": clip.ZScore(),
    }


def adam_theory(beta2: float, factor: float, before: int, after: int) -> NDArray[np.float64]:
    """|update| divided by the undisturbed one, k = 0, 1, ... steps after an outlier, by Adam's v.

    With unit gradients v is 1 - beta2^t, and the outlier adds (1 - beta2) beta2^k (factor^2 - 1).
    Its effect on m decays within about 1/(1-beta1) steps and is left out.
    """
    k = np.arange(after)
    v = 1 - beta2 ** (before + 1 + k)
    added = (1 - beta2) * beta2**k * (factor**2 - 1)
    ratio: NDArray[np.float64] = np.sqrt(v / (v + added))
    return ratio


def contamination(seed: int, progress: Callable[[float], None]) -> tuple[Contamination, ...]:
    """The effect of an outlier for all optimizers with moments and all clips."""
    size = NET.n_parameters
    rng = np.random.default_rng(seed)
    # All elements are +-1: every ordinary gradient has the same norm, and v the formula above.
    stream = rng.choice(np.array([-1.0, 1.0]), (AT + AFTER, size))
    clips = clips_for(size)
    names = [name for name in OPTIMIZERS if name != "SGD"]
    found: list[Contamination] = []
    for optimizer in names:
        for name, how in clips.items():
            plain = _updates(optimizer, how, stream, None)
            hit = _updates(optimizer, how, stream, AT)
            sizes = np.linalg.norm(plain, axis=1)
            off = np.linalg.norm(hit - plain, axis=1) / sizes
            late = np.flatnonzero(off > DISTURBED)
            theory = None
            if optimizer == "Adam" and how is None:
                theory = adam_theory(0.999, FACTOR, AT, AFTER)
            found.append(
                Contamination(
                    optimizer,
                    name,
                    np.linalg.norm(hit, axis=1) / sizes,
                    int(late[-1]) + 1 if len(late) else 0,
                    theory,
                )
            )
            progress(len(found) / (len(names) * len(clips)))
    return tuple(found)


def _updates(
    optimizer: str, how: clip.Clip | None, stream: NDArray[np.float64], outlier: int | None
) -> NDArray[np.float64]:
    """The updates (AFTER, n) from step AT on; the parameters are put back after each step."""
    lr = 1e-3
    home = np.random.default_rng(0).standard_normal(stream.shape[1:])
    params = Params(NET, home.copy())
    made = OPTIMIZERS[optimizer](params, lr, how)
    found = np.empty((AFTER, stream.shape[1]))
    grads = Grads(NET, np.empty(stream.shape[1]))
    for t in range(len(stream)):
        np.multiply(stream[t], FACTOR if t == outlier else 1.0, out=grads.flat)
        made.step(grads, threads=1)
        if t >= AT:
            found[t - AT] = params.flat - home
        params.flat[:] = home
    return found
