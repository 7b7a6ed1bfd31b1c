"""Largest singular values of matrices, of stacks of matrices and of linear operators; spectral
radii of square ones.
"""

from ._measure.spectral import IterationOutcome as IterationOutcome
from ._measure.spectral import Operator as Operator
from ._measure.spectral import SpectralNorm as SpectralNorm
from ._measure.spectral import SpectralRadius as SpectralRadius
from ._measure.spectral import singular_values as singular_values
from ._measure.spectral import spectral_norm as spectral_norm
from ._measure.spectral import spectral_radius as spectral_radius
