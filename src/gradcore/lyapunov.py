"""Lyapunov exponents: how fast nearby states of a driven net part, or meet, in nats per step.

The largest says whether gradients explode (above 0) or vanish (below) along a typical trajectory,
and how fast: a gradient of the distant past has the size exp(exponent * steps).
"""

from ._measure.lyapunov import LyapunovSpectrum as LyapunovSpectrum
from ._measure.lyapunov import of_map as of_map
from ._measure.lyapunov import spectrum as spectrum
