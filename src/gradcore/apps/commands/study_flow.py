"""`gradcore study flow`."""

from __future__ import annotations

from ..studies import flow as study
from .options import spread
from .study import StudyOptions, conduct, study_app


@study_app.command()
@spread
def flow(options: StudyOptions) -> None:
    """Gradient descent as Euler's method on the gradient flow.

    The largest curvature that each optimizer bears, by its rule and by stepping it; convergence
    where steps are stable and its loss where they are not; a net that grows sharper until its steps
    are at the limit; a rate that rises until the loss explodes, with a monitor that warns before.
    """
    conduct("flow", study.run, options)
