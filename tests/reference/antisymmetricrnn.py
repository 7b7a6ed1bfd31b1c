"""Antisymmetric RNN (Chang et al. 2019): h' = h + step tanh(x_pre + h_pre), where h_pre is made
with A - A' - diffusion I in place of the parameter A.
"""

import numpy as np


def effective(layer, weight):
    """The matrix by which h is multiplied."""
    return weight - weight.T - layer.diffusion * np.eye(len(weight))


def effective_tangent(layer, t_weight):
    return t_weight - t_weight.T


def effective_adjoint(layer, d_weight):
    return d_weight - d_weight.T


def forward(layer, x_pre, h_pre, state):
    (h,) = state
    f = np.tanh(x_pre + h_pre)
    return (h + layer.step * f,), f


def backward(layer, saved, d_new):
    (d_h,) = d_new
    d_a = layer.step * d_h * (1 - saved**2)
    return d_a, d_a, (d_h,)


def tangent(layer, saved, t_x_pre, t_h_pre, t_state):
    (t_h,) = t_state
    return (t_h + layer.step * (1 - saved**2) * (t_x_pre + t_h_pre),)
