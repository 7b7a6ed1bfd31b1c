"""`gradcore study skip`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import skip as study
from .options import spread
from .study import StudyOptions, conduct, study_app


@study_app.command()
@spread
def skip(
    *,
    length: Annotated[
        int, typer.Option("--length", min=200, metavar="T", help="Steps to look back over.")
    ] = 10_000,
    options: StudyOptions,
) -> None:
    """What a skip connection through time does to a gradient, theory beside measurement.

    A chain that multiplies by a per step has a gradient of a^T; a skip that halves the path,
    s^(T/2). Measured in float32 down to 10^-4000 by adjoints that carry a scale; then nets of real
    cells beside what their Lyapunov exponents predict. Some seconds.
    """
    conduct("skip", study.run, options, length=length)
