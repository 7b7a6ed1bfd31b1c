"""`gradcore study clipping`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import clipping as study
from .app import study_app
from .options import spread
from .study import StudyOptions, conduct


@study_app.command()
@spread
def clipping(
    *,
    updates: Annotated[int, typer.Option(min=10, help="Updates of each training.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings for each optimizer and clip.")] = 15,
    options: StudyOptions,
) -> None:
    """Compare clips under SGD, momentum, RMSprop, Adam and AdamW on a task whose gradient explodes.

    It measures progress, effective step and direction for every optimizer with every clip, each at
    its own learning rate, which is chosen on other data; and how long one outlier disturbs the
    optimizers that have moments.
    """
    conduct("clipping", study.run, options, updates=updates, seeds=seeds)
