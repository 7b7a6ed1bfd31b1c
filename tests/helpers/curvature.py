"""Products with curvature matrices by the reference."""

from reference import losses, two_ways
from tangent_case import by_reference


def gradient(problem, params):
    """The reference's gradient, for parameters that may be complex."""
    p = problem
    trace = two_ways.forward(p.net, params, p.x, state=p.state, mode=p.mode, **p.masks)
    _, d_outputs = losses.evaluate(p.loss, trace.outputs, p.y, p.weight, p.lengths)
    return two_ways.backward(p.net, params, trace, d_outputs).params


def hessian_product(problem, direction):
    """H v by a complex step of the gradient, so that no difference is taken (Squire and Trapp
    1998).
    """
    step = 1e-30
    moved = {name: a + 1j * step * direction[name] for name, a in problem.params.items()}
    return {name: a.imag / step for name, a in gradient(problem, moved).items()}


def gauss_newton(problem, direction):
    """J^T (H (J v))."""
    p = problem
    trace = two_ways.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    (moved,), _ = by_reference(p, ([direction], None, None))
    curved = losses.gauss_newton(p.loss, trace.outputs, moved, p.y, p.weight, p.lengths)
    return two_ways.backward(p.net, p.params, trace, curved).params
