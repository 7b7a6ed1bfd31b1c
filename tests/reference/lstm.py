"""LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000) with gates in PyTorch's
order i, f, g, o: c' = f c + i g, h' = o tanh(c').
"""

import numpy as np

from .elementwise import sigmoid


def forward(layer, x_pre, h_pre, state):
    a_i, a_f, a_g, a_o = np.split(x_pre + h_pre, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    _, c = state
    c_new = f * c + i * g
    return (o * np.tanh(c_new), c_new), (i, f, g, o, c, c_new)


def backward(layer, saved, d_new):
    i, f, g, o, c, c_new = saved
    d_h, d_c_new = d_new
    tanh_c = np.tanh(c_new)
    d_c_new = d_c_new + d_h * o * (1 - tanh_c**2)
    d_a = np.concatenate(
        [
            d_c_new * g * i * (1 - i),
            d_c_new * c * f * (1 - f),
            d_c_new * i * (1 - g**2),
            d_h * tanh_c * o * (1 - o),
        ],
        axis=1,
    )
    return d_a, d_a, (np.zeros_like(d_h), d_c_new * f)


def tangent(layer, saved, t_x_pre, t_h_pre, t_state):
    i, f, g, o, c, c_new = saved
    t_i, t_f, t_g, t_o = np.split(t_x_pre + t_h_pre, 4, axis=1)
    _, t_c = t_state
    t_c_new = (
        f * (1 - f) * t_f * c + f * t_c + i * (1 - i) * t_i * g + i * (1 - g**2) * t_g
    )  # product rule on f c + i g
    tanh_c = np.tanh(c_new)
    return (o * (1 - o) * t_o * tanh_c + o * (1 - tanh_c**2) * t_c_new, t_c_new)
