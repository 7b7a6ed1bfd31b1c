"""Fixed point layers, whose output z solves z = f(z, x): solvers, gradients from the implicit
function theorem, and measurements of their conditioning.

    layer = FixedPoint(gd.Stack(gd.RNN(8, 32)))
    params = layer.init(seed=0)
    found = layer.solve(params, x)  # x is (N, 8), found.z (N, 32); found.converged flags samples
    back = layer.gradient(params, x, found, dz)
    gauge = layer.conditioning(params, x, found, dz)
"""

from ._adjoint import Backward as Backward
from ._adjoint import Bicgstab as Bicgstab
from ._adjoint import Gmres as Gmres
from ._adjoint import Neumann as Neumann
from ._adjoint import OneStep as OneStep
from ._conditioning import Conditioning as Conditioning
from ._function import Function as Function
from ._layer import FixedPoint as FixedPoint
from ._layer import Gradient as Gradient
from ._model import Model as Model
from ._model import ModelGradient as ModelGradient
from ._model import ModelOutput as ModelOutput
from ._model import Parts as Parts
from ._penalty import JacobianPenalty as JacobianPenalty
from ._solution import Solution as Solution
from ._solution import SolverOutcome as SolverOutcome
from ._solvers import Anderson as Anderson
from ._solvers import Damped as Damped
from ._solvers import NewtonKrylov as NewtonKrylov
from ._solvers import Solver as Solver
