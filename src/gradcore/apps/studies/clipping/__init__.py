"""The effect of clips under different optimizers: on an exploding task, and on one outlier.

The task is the adding problem over 30 steps with a relu RNN that starts from the identity. Its
gradient starts three powers of ten above its final size and has jumps. Every optimizer trains with
every clip at its own learning rate, which is chosen on other seeds and other held-out sequences
than those reported. A second part measures how long one outlier in a stream of ordinary gradients
disturbs each optimizer, with a formula for Adam.
"""

from __future__ import annotations

from ...._base.checks import integer, positive_int
from .. import Progress
from ._grid import Cell as Cell
from ._grid import grid
from ._outlier import Contamination as Contamination
from ._outlier import contamination
from ._result import ClippingStudy as ClippingStudy

__all__ = ["Cell", "ClippingStudy", "Contamination", "run"]


def run(
    *,
    updates: int = 500,
    seeds: int = 15,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> ClippingStudy:
    """Runs the study, which takes two minutes of processor time.

    updates: the updates of each training. seeds: the number of trainings reported for each
    optimizer and clip. seed: the first of their seeds. threads: the number of trainings that run
    in parallel.
    """
    updates, seeds = positive_int("updates", updates), positive_int("seeds", seeds)
    seed = integer("seed", seed)
    cells = grid(updates, seeds, seed, threads, lambda part: progress("training", 0.9 * part))
    found = contamination(seed, lambda part: progress("outlier", 0.9 + 0.1 * part))
    progress("done", 1.0)
    return ClippingStudy(updates, seeds, seed, cells, found)
