"""Jacobian and curvature products of whole nets: tangents, cotangents, adjoints of every step.

The axis of directions comes first: K directions make arrays (K, T, B, ...), and states whose arrays
have a leading axis K. What may grow or decay exponentially with time is given as an array and an
exponent, and the true value is array * 2**exponent. So it does not become NaN, infinity or zero
because the sequence is long.
"""

from ._curvature import GaussNewton as GaussNewton
from ._curvature import Hvp as Hvp
from ._curvature import gauss_newton_product as gauss_newton_product
from ._curvature import hvp as hvp
from ._hidden import HiddenGradients as HiddenGradients
from ._hidden import hidden_gradients as hidden_gradients
from ._matrices import ScaledMatrices as ScaledMatrices
from ._matrices import state_jacobian as state_jacobian
from ._matrices import step_jacobians as step_jacobians
from ._reverse import Vjp as Vjp
from ._reverse import vjp as vjp
from ._samples import per_sample_gradients as per_sample_gradients
from ._singular import state_singular_values as state_singular_values
from ._tangents import Jvp as Jvp
from ._tangents import jvp as jvp
