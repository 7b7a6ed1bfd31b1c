"""`gradcore study implicit`."""

from __future__ import annotations

from ..studies import implicit as study
from .app import study_app
from .options import spread
from .study import StudyOptions, conduct


@study_app.command()
@spread
def implicit(options: StudyOptions) -> None:
    """Study a fixed point layer when an eigenvalue of its Jacobian approaches 1.

    The gradient grows as 1/(1 - eigenvalue), the measured conditioning shows it, iterations take
    longer, and approximate gradients become wrong; a spectral constraint or the Jacobian penalty
    cures it. It takes some seconds.
    """
    conduct("implicit", study.run, options)
