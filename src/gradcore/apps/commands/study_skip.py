"""`gradcore study skip`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import skip as study
from .app import study_app
from .options import spread
from .study import StudyOptions, conduct


@study_app.command()
@spread
def skip(
    *,
    length: Annotated[
        int, typer.Option("--length", min=200, metavar="T", help="Steps of the sequence.")
    ] = 10_000,
    options: StudyOptions,
) -> None:
    """Compare theory and measurement of what skip connections through time do to gradients.

    A linear chain with the factor a per step has a gradient of a^T, and with a skip of strength s
    that halves the path, s^(T/2). Scaled adjoints in float32 measure it down to 10^-4000. Nets of
    real cells are compared with the prediction of their Lyapunov exponents. It takes some seconds.
    """
    conduct("skip", study.run, options, length=length)
