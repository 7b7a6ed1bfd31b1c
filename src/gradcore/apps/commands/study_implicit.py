"""`gradcore study implicit`."""

from __future__ import annotations

from ..studies import implicit as study
from .study import JsonFile, Plot, Quiet, Seed, Threads, conduct, study_app


@study_app.command()
def implicit(
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """An eigenvalue of an implicit layer's Jacobian is driven to 1.

    The gradient blows up as 1/(1 - eigenvalue), the gauge announces it, iterations take longer and
    cheap ways back go wrong; a spectral constraint or the Jacobian penalty cures it. Some seconds.
    """
    conduct(
        "implicit",
        lambda progress: study.run(seed=seed, threads=threads, progress=progress),
        json_file,
        plot,
        quiet,
    )
