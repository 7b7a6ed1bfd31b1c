"""`gradcore study von-neumann`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import von_neumann as study
from .study import JsonFile, Plot, Quiet, Seed, Threads, conduct, study_app


@study_app.command("von-neumann")
def von_neumann(
    depth: Annotated[
        int, typer.Option(min=10, metavar="N", help="Layers that modes are followed through.")
    ] = 200,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Which Fourier modes a layer amplifies, theory beside simulation.

    Heat, advection and wave schemes as layers, with the textbook's factors and limits; a deep
    residual convolution before and after its kernel is projected to |G(k)| <= 1; gradients through
    an RNN with circulant weights; and what zero padding changes. Some seconds.
    """
    conduct(
        "von-neumann",
        lambda progress: study.run(depth=depth, seed=seed, threads=threads, progress=progress),
        json_file,
        plot,
        quiet,
    )
