"""`gradcore study implicit`."""

from __future__ import annotations

from ..studies import implicit as study
from .options import spread
from .study import StudyOptions, conduct, study_app


@study_app.command()
@spread
def implicit(options: StudyOptions) -> None:
    """An eigenvalue of an implicit layer's Jacobian is driven to 1.

    The gradient blows up as 1/(1 - eigenvalue), the gauge announces it, iterations take longer and
    cheap ways back go wrong; a spectral constraint or the Jacobian penalty cures it. Some seconds.
    """
    conduct("implicit", study.run, options)
