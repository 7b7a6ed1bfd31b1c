"""Plain cell (Elman 1990): h' = f(a), a = x_pre + h_pre, with f = tanh, relu or identity.

x_pre = W_ih x + b_ih and h_pre = W_hh h + b_hh are [B, H]. Every cell has these three functions;
the prefix d_ marks a gradient with respect to a value, t_ a tangent.
"""

import numpy as np

from .elementwise import relu


def forward(layer, x_pre, h_pre, state):
    """The state (h,) after the step, and what backward and tangent need."""
    a = x_pre + h_pre
    f = {"tanh": np.tanh, "relu": relu, "identity": np.copy}[layer.nonlinearity]
    return (f(a),), a


def slope(layer, a):
    """f'(a)."""
    if layer.nonlinearity == "tanh":
        return 1 - np.tanh(a) ** 2
    if layer.nonlinearity == "relu":
        return np.where(a > 0, 1.0, 0.0)
    return np.ones_like(a)


def backward(layer, saved, d_new):
    """Gradients of x_pre, of h_pre, and of the old state where it does not act through h_pre."""
    (d_h,) = d_new
    d_a = d_h * slope(layer, saved)
    return d_a, d_a, (np.zeros_like(d_h),)


def tangent(layer, saved, t_x_pre, t_h_pre, t_state):
    """Tangent of the new state."""
    return (slope(layer, saved) * (t_x_pre + t_h_pre),)
