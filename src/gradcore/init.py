"""Initialisers, for long memories first; net.init takes them by name.

Values are drawn in float64 in the order of the flat buffer and then rounded, so that float32 and
float64 parameters of one seed agree.
"""

from ._net.initial import chrono_bias as chrono_bias
from ._net.initial import forget_gate_bias as forget_gate_bias
from ._net.initial import orthogonal as orthogonal
from ._net.initial import scaled_identity as scaled_identity
from ._net.initial import uniform as uniform
