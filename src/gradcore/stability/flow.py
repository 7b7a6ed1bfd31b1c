"""Training as integration: gradient descent is Euler's method on the gradient flow.

The gradient flow is p' = -grad L(p). Along an eigenvector of the Hessian with eigenvalue lambda, a
step of size lr is stable if lr * lambda <= 2. Momentum, Nesterov's method, RMSprop and Adam have
other limits. Reference: Cohen et al. 2021 (training often stays at this limit, the edge of
stability); Cohen et al. 2022 (adaptive methods).
"""

from ._regions import amplification as amplification
from ._regions import draw_regions as draw_regions
from ._rules import curvature_limit as curvature_limit
from ._rules import curvature_scale as curvature_scale
from ._rules import step_map as step_map
from ._sharpness import SearchOutcome as SearchOutcome
from ._sharpness import Sharpness as Sharpness
from ._sharpness import StepStability as StepStability
from ._sharpness import sharpness as sharpness
from ._sharpness import step_stability as step_stability
