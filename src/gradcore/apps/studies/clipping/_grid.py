"""Trains every optimizer with every clip."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import build_info
from ...._engine.calls import value, value_and_grad
from ...._net.cells import RNN
from ...._net.layers import Linear
from ...._net.stack import Grads, Params, Stack
from ....data import Batch
from ....errors import GradcoreError
from ...tasks.synthetic.adding import Adding
from ._ways import CLIPS, OPTIMIZERS, RATES

__all__ = ["Cell", "grid"]

STEPS, HIDDEN, SEQUENCES, HELD_OUT = 30, 32, 16, 256
# The seeds on which learning rates are chosen; the reported trainings have other seeds.
CHOOSING = (1_000, 1_001)
# The number of updates between two measurements of the clip's effect on the direction.
LOOK = 10
TASK = Adding(STEPS)
NET = Stack(RNN(2, HIDDEN, nonlinearity="relu"), Linear(HIDDEN, 1))


@dataclass(frozen=True, eq=False)
class Cell:
    """The result for an optimizer with a clip.

    lr: the chosen learning rate. loss (seeds,): held-out squared error after the last update, inf
    if numbers left their range; always answering 1 gives 0.167. clipped: the share of clipped
    updates. step: the median of |update| / |parameters|. angle: the mean angle, in degrees, between
    a clipped update and that of the same optimizer in the same state with the unclipped gradient;
    NaN if no clipped update was measured.
    """

    optimizer: str
    clip: str
    lr: float
    loss: NDArray[np.float64]
    clipped: float
    step: float
    angle: float

    @property
    def median(self) -> float:
        """The median of the losses."""
        return float(np.median(self.loss))

    @property
    def failed(self) -> float:
        """The share of trainings that ended with 1.2 times the baseline's error or more."""
        return float(np.mean(~(self.loss < TASK.baseline.loss * 1.2)))


@dataclass
class _Run:
    """One training."""

    loss: float = np.inf
    clipped: int = 0
    steps: list[float] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)
    updates: int = 0


def grid(
    updates: int, seeds: int, seed: int, threads: int | None, progress: Callable[[float], None]
) -> tuple[Cell, ...]:
    """The results for all optimizers with all clips, row by row."""
    ways = [(optimizer, clip) for optimizer in OPTIMIZERS for clip in CLIPS]
    choosing = [(o, c, lr, s) for o, c in ways for lr in RATES[o] for s in CHOOSING]
    total = len(choosing) + len(ways) * seeds
    done = 0
    results: dict[tuple[str, str, float, int], _Run] = {}
    with ThreadPoolExecutor(threads or build_info().threads) as pool:

        def run_all(todo: list[tuple[str, str, float, int]]) -> None:
            nonlocal done
            for key, run in zip(todo, pool.map(lambda k: _train(k, updates), todo), strict=True):
                results[key] = run
                done += 1
                progress(done / total)

        run_all(choosing)
        chosen = {
            (o, c): min(RATES[o], key=lambda lr: sum(results[o, c, lr, s].loss for s in CHOOSING))
            for o, c in ways
        }
        run_all([(o, c, chosen[o, c], seed + n) for o, c in ways for n in range(seeds)])
    return tuple(
        _cell(o, c, chosen[o, c], [results[o, c, chosen[o, c], seed + n] for n in range(seeds)])
        for o, c in ways
    )


def _cell(optimizer: str, clip: str, lr: float, runs: list[_Run]) -> Cell:
    angles = [angle for run in runs for angle in run.angles]
    return Cell(
        optimizer,
        clip,
        lr,
        np.array([run.loss for run in runs]),
        sum(run.clipped for run in runs) / max(1, sum(run.updates for run in runs)),
        float(np.median([step for run in runs for step in run.steps] or [np.nan])),
        float(np.mean(angles)) if angles else float("nan"),
    )


def _train(key: tuple[str, str, float, int], updates: int) -> _Run:
    optimizer, clip, lr, seed = key
    params = NET.init(seed=seed, recurrent="identity")
    how = CLIPS[clip]
    made = OPTIMIZERS[optimizer](params, lr, how)
    run = _Run()
    try:
        for update, batch in enumerate(_batches(seed, updates)):
            result = value_and_grad(NET, params, batch.x, batch.y, loss=TASK.loss, threads=1)
            assert result.grads is not None
            look = how is not None and update % LOOK == 0 and result.grads.exponent == 0
            before = (params.flat.copy(), made.state_dict()) if look else None
            report = made.step(result.grads, threads=1)
            run.updates += 1
            run.clipped += report.clipped
            run.steps.append(report.update_ratio)
            if before is not None and report.clipped:
                change = params.flat.astype(np.float64) - before[0]
                run.angles.append(_angle(change, _unclipped(optimizer, lr, *before, result.grads)))
        held_out = _held_out(seed in CHOOSING)
        run.loss = float(value(NET, params, held_out.x, held_out.y, loss=TASK.loss, threads=1))
    except GradcoreError:  # an overflow, or a gradient out of range that nothing clips
        return run
    return run


def _unclipped(
    optimizer: str, lr: float, flat: NDArray[Any], state: dict[str, Any], grads: Grads
) -> NDArray[np.float64]:
    """The update that the optimizer would have made without a clip."""
    params = Params(NET, flat.copy())
    other = OPTIMIZERS[optimizer](params, lr, None)
    other.load_state_dict({**state, "running_norm": None})
    other.step(grads, threads=1)
    change: NDArray[np.float64] = params.flat.astype(np.float64) - flat
    return change


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if not size:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b) / size, -1, 1))))


@lru_cache(maxsize=64)
def _batches(seed: int, updates: int) -> tuple[Batch, ...]:
    return tuple(TASK.training_batch(seed, update, SEQUENCES) for update in range(updates))


@lru_cache(maxsize=2)
def _held_out(choosing: bool) -> Batch:
    """The held-out batch. Rates are chosen on a training batch of a seed that no training has."""
    return TASK.training_batch(999, 0, HELD_OUT) if choosing else TASK.held_out(HELD_OUT)
