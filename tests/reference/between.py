"""Layers between recurrent ones: LayerNorm (Ba, Kiros, Hinton 2016, eq. 3, 4), dropout, Dense.

Each function takes one layer of the net; `saved` is what forward passes to the other two.
"""

import numpy as np

from . import activations, philox

KINDS = ("LayerNorm", "Dropout", "Dense", "Conv1d")  # the last is in convolution.py


def forward(layer, place, params, signal, mode, t):
    """Maps the signal [B, I] to an output [B, O], and returns what backward and tangent need."""
    if type(layer).__name__ == "Dense":
        z = signal @ params["weight"].T + params.get("bias", 0.0)
        return activations.value(layer.activation, z), (signal, z)
    if type(layer).__name__ == "Dropout":
        mask = mode.factors(layer.p, place, philox.DROPOUT, t, *signal.shape)
        return signal * mask, mask
    off = signal - signal.mean(axis=1, keepdims=True)
    deviation = np.sqrt((off**2).mean(axis=1, keepdims=True) + layer.eps)
    normal = off / deviation
    return normal * params.get("weight", 1.0) + params.get("bias", 0.0), (normal, deviation)


def backward(layer, params, saved, d):
    """The gradient of the signal, and of the parameters by name."""
    if type(layer).__name__ == "Dense":
        signal, z = saved
        d_z = d * activations.slope(layer.activation, z)
        return d_z @ params["weight"], {"weight": d_z.T @ signal, "bias": d_z.sum(axis=0)}
    if type(layer).__name__ == "Dropout":
        return d * saved, {}
    normal, deviation = saved
    shares = {"weight": (d * normal).sum(axis=0), "bias": d.sum(axis=0)}
    return projected(normal, d * params.get("weight", 1.0)) / deviation, shares


def tangent(layer, params, t_params, saved, t_signal):
    if type(layer).__name__ == "Dense":
        signal, z = saved
        t_z = t_signal @ params["weight"].T + signal @ t_params["weight"].T
        return (t_z + t_params.get("bias", 0.0)) * activations.slope(layer.activation, z)
    if type(layer).__name__ == "Dropout":
        return t_signal * saved
    normal, deviation = saved
    t_normal = projected(normal, t_signal) / deviation
    return (
        t_normal * params.get("weight", 1.0)
        + normal * t_params.get("weight", 0.0)
        + t_params.get("bias", 0.0)
    )


def projected(normal, a):
    """a minus its components along the constant row and along `normal`; the map is symmetric."""
    along = (a * normal).mean(axis=1, keepdims=True)
    return a - a.mean(axis=1, keepdims=True) - normal * along
