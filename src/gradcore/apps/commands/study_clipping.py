"""`gradcore study clipping`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import clipping as study
from .study import JsonFile, Plot, Quiet, Seed, Threads, conduct, study_app


@study_app.command()
def clipping(
    updates: Annotated[int, typer.Option(min=10, help="Updates of each training.")] = 500,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings reported for each optimizer and clip.")
    ] = 5,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """How clipping acts under SGD, momentum, RMSprop, Adam and AdamW, on a task that explodes.

    Progress, effective step and direction of every optimizer with every clip, each at a learning
    rate of its own, chosen on other data; and how long one outlier disturbs the optimizers that
    remember.
    """
    conduct(
        "clipping",
        lambda progress: study.run(
            updates=updates, seeds=seeds, seed=seed, threads=threads, progress=progress
        ),
        json_file,
        plot,
        quiet,
    )
