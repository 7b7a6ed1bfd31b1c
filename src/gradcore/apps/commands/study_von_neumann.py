"""`gradcore study von-neumann`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..studies import von_neumann as study
from .app import study_app
from .options import spread
from .study import StudyOptions, conduct


@study_app.command("von-neumann")
@spread
def von_neumann(
    *,
    depth: Annotated[
        int, typer.Option(min=10, metavar="N", help="Number of layers of the deep stacks.")
    ] = 200,
    options: StudyOptions,
) -> None:
    """Compare theory and simulation of which Fourier modes a layer amplifies.

    It covers schemes for heat, advection and waves as layers, with the factors and limits of
    textbooks; a deep residual convolution before and after its kernel is projected to
    |G(k)| <= 1; gradients through an RNN with circulant weights; and the effect of zero padding. It
    takes some seconds.
    """
    conduct("von-neumann", study.run, options, depth=depth)
