"""Activation functions and their slopes, for real and complex arrays.

Complex steps differentiate them, so that a choice between two formulas looks at the real part.
"""

import math

import numpy as np

error_function = np.vectorize(math.erf, otypes=[float])


def sigmoid(x):
    positive = x.real > 0
    e = np.exp(np.where(positive, -x, x))  # of the sign that does not overflow
    return np.where(positive, 1.0, e) / (1 + e)


def density(x):
    """Of a standard normal variable."""
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def probability(x):
    """That a standard normal variable is at most x; off the real line its first-order expansion."""
    found = (1 + error_function(x.real / math.sqrt(2))) / 2
    return found + 1j * x.imag * density(x.real) if np.iscomplexobj(x) else found


def value(name, x):
    match name:
        case "identity":
            return x
        case "relu":
            return np.where(x.real > 0, x, 0.0)
        case "tanh":
            return np.tanh(x)
        case "gelu":
            return x * probability(x)
        case "silu":
            return x * sigmoid(x)
        case "sigmoid":
            return sigmoid(x)
        case "softplus":
            return softplus(x)
    raise ValueError(name)


def softplus(x):
    # log(1 + e^x) = x + log(1 + e^-x), so that no exponential overflows.
    positive = x.real > 0
    return np.where(positive, x, 0.0) + np.log1p(np.exp(np.where(positive, -x, x)))


def slope(name, x):
    match name:
        case "identity":
            return np.ones_like(x)
        case "relu":
            return np.where(x.real > 0, 1.0, 0.0)
        case "tanh":
            return 1 - np.tanh(x) ** 2
        case "gelu":
            return probability(x) + x * density(x)
        case "silu":
            return sigmoid(x) * (1 + x * (1 - sigmoid(x)))
        case "sigmoid":
            return sigmoid(x) * (1 - sigmoid(x))
        case "softplus":
            return sigmoid(x)
    raise ValueError(name)
