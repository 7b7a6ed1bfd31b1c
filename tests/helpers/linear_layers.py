"""Functions whose fixed points have a closed form."""

import numpy as np

from gradcore.implicit import Function


def linear(a):
    """f(z, x) = z A' + x, with A a parameter."""
    return Function(
        lambda z, x, p: z @ p["a"].T + x,
        lambda z, x, p, v: v @ p["a"].T,
        lambda z, x, p, u: (u @ p["a"], u, {"a": u.T @ z}),
        len(a),
        parameters={"a": a},
    )


def contraction(size, radius, seed=0):
    a = np.random.default_rng(seed).standard_normal((size, size))
    return a * radius / np.linalg.norm(a, 2)
