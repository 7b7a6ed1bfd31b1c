"""`gradcore plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..._training.runs import BEST, LAST, METRICS
from .. import curves
from .app import app, check_outputs, errors, fail, say
from .options import run_files


@app.command()
def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Folders of runs, or a file of one, such as its metrics.jsonl.",
            show_default=False,
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
        bool | None,
        typer.Option(
            "--log/--linear",
            help="Draw loss and score on logarithmic axes, or on linear ones. Default: the loss on "
            "a logarithmic axis if it is positive and falls by more than a factor of ten.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw the curves of one or several training runs in one picture.

    It shows loss and gradient norm, both as they were and smoothed, the score and the learning
    rate. It also works while a run is still in progress.
    """
    with errors():
        if not curves.can_draw():
            fail("plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        runs = [_run_of(path) for path in runs]
        single = runs[0] if len(runs) == 1 and runs[0].is_dir() else Path()
        picture = out or single / "curves.png"
        check_outputs(inputs=run_files(*runs), pictures=(picture,))
        for panel in curves.draw(picture, runs, x=x, log=log):
            say(f"the {panel} is on a linear axis, because none of its values is positive")
        say(f"saved {picture}")


def _run_of(path: Path) -> Path:
    """The folder of the run that a net belongs to; other paths as they are."""
    if path.suffix == ".safetensors" and path.is_file():
        if path.name not in (BEST, LAST) or not (path.parent / METRICS).is_file():
            fail(
                f"{path} is a net, which holds no curves. Name the folder of its run, which a "
                f"training with --run FOLDER keeps; gradcore diagnose {path} draws the net itself."
            )
        return path.parent
    return path
