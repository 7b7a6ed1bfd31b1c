"""Lyapunov exponents: the rates at which nearby states of a net diverge or converge, in nats/step.

The largest exponent says whether gradients explode (above 0) or vanish (below 0) along a typical
trajectory, and how fast: going back `steps` steps multiplies a gradient by about
exp(exponent * steps).
"""

from ._measure.lyapunov import LyapunovSpectrum as LyapunovSpectrum
from ._measure.lyapunov import of_map as of_map
from ._measure.lyapunov import spectrum as spectrum
