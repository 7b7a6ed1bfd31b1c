"""GRU (Cho et al. 2014) with gates in PyTorch's order r, z, n; the reset gate acts on the recurrent
product including its bias.

n = tanh(x_n + r h_n), h' = (1 - z) n + z h
"""

import numpy as np

from .elementwise import sigmoid


def forward(layer, x_pre, h_pre, state):
    x_r, x_z, x_n = np.split(x_pre, 3, axis=1)
    h_r, h_z, h_n = np.split(h_pre, 3, axis=1)
    (h,) = state
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,), (r, z, n, h_n, h)


def backward(layer, saved, d_new):
    r, z, n, h_n, h = saved
    (d_h,) = d_new
    d_z = d_h * (h - n) * z * (1 - z)
    d_n = d_h * (1 - z) * (1 - n**2)
    d_r = d_n * h_n * r * (1 - r)
    d_x_pre = np.concatenate([d_r, d_z, d_n], axis=1)
    d_h_pre = np.concatenate([d_r, d_z, d_n * r], axis=1)
    return d_x_pre, d_h_pre, (d_h * z,)


def tangent(layer, saved, t_x_pre, t_h_pre, t_state):
    r, z, n, h_n, h = saved
    x_r, x_z, x_n = np.split(t_x_pre, 3, axis=1)
    h_r, h_z, t_h_n = np.split(t_h_pre, 3, axis=1)
    (t_h,) = t_state
    t_r, t_z = r * (1 - r) * (x_r + h_r), z * (1 - z) * (x_z + h_z)
    t_n = (1 - n**2) * (x_n + t_r * h_n + r * t_h_n)
    return ((1 - z) * t_n - t_z * n + t_z * h + z * t_h,)
