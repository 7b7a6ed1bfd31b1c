"""Functions of one number, which may be complex with a small imaginary part."""

import numpy as np


def sigmoid(a):
    """1 / (1 + exp(-a)) without overflow."""
    positive = a.real > 0
    e = np.exp(np.where(positive, -a, a))
    return np.where(positive, 1 / (1 + e), e / (1 + e))


def relu(a):
    """max(a, 0)."""
    return np.where(a.real > 0, a, 0)


def softplus(a):
    """log(1 + exp(a)) without overflow."""
    return relu(a) + np.log1p(np.exp(np.where(a.real > 0, -a, a)))
