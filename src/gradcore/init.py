"""Initialisers of weights and biases, most of them for long memories; net.init takes their names.

Values are drawn in float64, in the order in which parameters lie in the flat buffer, and then
rounded to the dtype, so that float32 and float64 parameters of one seed agree.
"""

from ._net.initial import chrono_bias as chrono_bias
from ._net.initial import forget_gate_bias as forget_gate_bias
from ._net.initial import orthogonal as orthogonal
from ._net.initial import scaled_identity as scaled_identity
from ._net.initial import uniform as uniform
