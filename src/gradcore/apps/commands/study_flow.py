"""`gradcore study flow`."""

from __future__ import annotations

from ..studies import flow as study
from .app import study_app
from .options import spread
from .study import StudyOptions, conduct


@study_app.command()
@spread
def flow(options: StudyOptions) -> None:
    """Study gradient descent as Euler's method on the gradient flow.

    It measures the largest stable curvature of each optimizer, by a formula and by making steps;
    convergence with stable steps and divergence with unstable ones; a net that gets sharper until
    its steps are at the limit; and a rate that rises until the loss explodes, with a monitor that
    warns before that.
    """
    conduct("flow", study.run, options)
