"""How clipping acts under different optimizers: progress on an exploding task, and one outlier.

The task: the adding problem over 30 steps with a relu RNN that starts from the identity, whose
gradient begins three powers of ten above where it ends and jumps on the way. Every optimizer with
every clip trains with its own learning rate, chosen on other seeds and other held-out sequences
than those reported. Beside it, how long one outlier disturbs each optimizer in a stream of ordinary
gradients, with the closed form for Adam.
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
    seeds: int = 5,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> ClippingStudy:
    """The whole study; about a minute and a half on two cores.

    updates: of each training. seeds: trainings that are reported for each optimizer and clip. seed:
    the first of them. threads: trainings side by side.
    """
    updates, seeds = positive_int("updates", updates), positive_int("seeds", seeds)
    seed = integer("seed", seed)
    cells = grid(updates, seeds, seed, threads, lambda part: progress("training", 0.9 * part))
    found = contamination(seed, lambda part: progress("outlier", 0.9 + 0.1 * part))
    progress("done", 1.0)
    return ClippingStudy(updates, seeds, seed, cells, found)
