"""`gradcore study clipping`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import clipping as study
from .options import spread
from .study import StudyOptions, conduct, study_app


@study_app.command()
@spread
def clipping(
    *,
    updates: Annotated[int, typer.Option(min=10, help="Updates of each training.")] = 500,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings reported for each optimizer and clip.")
    ] = 5,
    options: StudyOptions,
) -> None:
    """How clipping acts under SGD, momentum, RMSprop, Adam and AdamW, on a task that explodes.

    Progress, effective step and direction of every optimizer with every clip, each at a learning
    rate of its own, chosen on other data; and how long one outlier disturbs the optimizers that
    remember.
    """
    conduct("clipping", study.run, options, updates=updates, seeds=seeds)
