"""`gradcore study flow`."""

from __future__ import annotations

from ..studies import flow as study
from .study import JsonFile, Plot, Quiet, Seed, Threads, conduct, study_app


@study_app.command()
def flow(
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Gradient descent as Euler's method on the gradient flow.

    The largest curvature that each optimizer bears, by its rule and by stepping it; convergence
    where steps are stable and its loss where they are not; a net that grows sharper until its steps
    are at the limit; a rate that rises until the loss explodes, with a monitor that warns before.
    """
    conduct(
        "flow",
        lambda progress: study.run(seed=seed, threads=threads, progress=progress),
        json_file,
        plot,
        quiet,
    )
