"""Causal convolutions over time, one step at a time.

`rows` [1 + (K-1)*dilation, B, I] are the inputs that a step reads, oldest first, the step's own
last: tap k is rows[k * dilation].
"""

import numpy as np

from . import activations


def taps(layer, rows):
    """[K, B, I]"""
    return rows[:: layer.dilation]


def dense_weight(layer, weight):
    """[K, O, I] of a weight [O, I / groups, K], with zeros between the groups."""
    outputs, own, count = weight.shape
    full = np.zeros((count, outputs, layer.in_channels), weight.dtype)
    for o in range(outputs):
        first = o // (outputs // layer.groups) * own
        full[:, o, first : first + own] = weight[o].T
    return full


def own_weight(layer, full):
    """The elements of [K, O, I] that belong to the weight [O, I / groups, K]."""
    _, outputs, _ = full.shape
    own = layer.in_channels // layer.groups
    starts = [o // (outputs // layer.groups) * own for o in range(outputs)]
    return np.array([full[:, o, s : s + own].T for o, s in enumerate(starts)])


def product(layer, params, rows):
    weight = dense_weight(layer, params["weight"])
    return np.einsum("kbi,koi->bo", taps(layer, rows), weight) + params.get("bias", 0.0)


def forward(layer, params, rows):
    z = product(layer, params, rows)
    return activations.value(layer.activation, z), (rows, z)


def backward(layer, params, saved, d):
    """The gradients of the rows, and of the parameters by name."""
    rows, z = saved
    d_z = d * activations.slope(layer.activation, z)
    weight = dense_weight(layer, params["weight"])
    d_rows = np.zeros(rows.shape, np.result_type(rows, weight, d_z))
    d_rows[:: layer.dilation] = np.einsum("bo,koi->kbi", d_z, weight)
    d_weight = own_weight(layer, np.einsum("bo,kbi->koi", d_z, taps(layer, rows)))
    return d_rows, {"weight": d_weight, "bias": d_z.sum(axis=0)}


def tangent(layer, params, t_params, saved, t_rows):
    rows, z = saved
    t_z = product(layer, {"weight": params["weight"]}, t_rows) + product(layer, t_params, rows)
    return t_z * activations.slope(layer.activation, z)
