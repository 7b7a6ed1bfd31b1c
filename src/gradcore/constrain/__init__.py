"""Constraints that keep the weights of a net where it is stable, and the bounds that they prove.

An optimizer takes constraints, and its parameters satisfy them from its construction on:
`gd.optim.Adam(params, constraints=[gd.constrain.SpectralNorm(1.0)])`.
"""

from ._bounds import jacobian_bound as jacobian_bound
from ._bounds import trajectory_bound as trajectory_bound
from ._conv import ConvNorm as ConvNorm
from ._conv import conv_norm as conv_norm
from ._conv import project_conv as project_conv
from ._descriptions import Constraint as Constraint
from ._descriptions import Orthogonal as Orthogonal
from ._descriptions import SpectralNorm as SpectralNorm
from ._descriptions import by_name as by_name
from ._keeper import ConstraintReport as ConstraintReport
from ._mask import Mask as Mask
from ._mask import dale as dale
