"""`gradcore study von-neumann`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import von_neumann as study
from .options import spread
from .study import StudyOptions, conduct, study_app


@study_app.command("von-neumann")
@spread
def von_neumann(
    *,
    depth: Annotated[
        int, typer.Option(min=10, metavar="N", help="Layers that modes are followed through.")
    ] = 200,
    options: StudyOptions,
) -> None:
    """Which Fourier modes a layer amplifies, theory beside simulation.

    Heat, advection and wave schemes as layers, with the textbook's factors and limits; a deep
    residual convolution before and after its kernel is projected to |G(k)| <= 1; gradients through
    an RNN with circulant weights; and what zero padding changes. Some seconds.
    """
    conduct("von-neumann", study.run, options, depth=depth)
