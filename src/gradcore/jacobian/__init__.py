"""Jacobian and curvature products of whole nets, on the cells and kernels of training.

K directions come first: dx [K, T, B, I], outputs [K, T, B, O], and states whose arrays have a
leading axis K. Scaled results are an array and an exponent, the true value being
array * 2**exponent, so that nothing becomes NaN or infinite by growing or decaying along time.
"""

from ._curvature import GaussNewton as GaussNewton
from ._curvature import Hvp as Hvp
from ._curvature import gauss_newton_product as gauss_newton_product
from ._curvature import hvp as hvp
from ._tangents import Jvp as Jvp
from ._tangents import jvp as jvp
