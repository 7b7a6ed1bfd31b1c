"""`gradcore plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import curves
from .app import app, check_outputs, errors, fail, say
from .options import run_files


@app.command()
def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Folders of runs, or their metrics.jsonl.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File for the picture; the suffix gives the format. Default: curves.png, in the "
            "folder of the run if there is only one.",
        ),
    ] = None,
    x: Annotated[
        Literal["step", "seconds"], typer.Option("--x", help="The horizontal axis.")
    ] = "step",
    log: Annotated[
        bool, typer.Option("--log", help="Draw loss and score on logarithmic axes.")
    ] = False,
) -> None:
    """Draw the curves of one or several training runs in one picture.

    It shows loss and gradient norm, both as they were and smoothed, the score and the learning
    rate. It also works while a run is still in progress.
    """
    with errors():
        if not curves.can_draw():
            fail("plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        single = runs[0] if len(runs) == 1 and runs[0].is_dir() else Path()
        picture = out or single / "curves.png"
        check_outputs(inputs=run_files(*runs), pictures=(picture,))
        curves.draw(picture, runs, x=x, log=log)
        say(f"saved {picture}")
