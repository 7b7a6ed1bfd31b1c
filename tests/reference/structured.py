"""Recurrent weights with structure, unit by unit, as the dense matrix [G*H, H] that multiplies h.

Row g*H + u of a layer with blocks multiplies the units of u's own block, which is H / blocks long;
a diagonal weight is such a block of one unit (Li et al. 2018, eq. 3).
"""

import numpy as np


def heads(layer):
    """Triples (row, place in the row, unit of h) of all weights."""
    size = layer.hidden_size
    length = 1 if layer.recurrent == "diagonal" else size // layer.blocks
    for row in range(len(layer.cell.gates) * size):
        first = row % size // length * length
        for place in range(length):
            yield row, place, first + place


def effective(layer, weight):
    """The matrix by which h is multiplied; weight: None where there is none."""
    size = layer.hidden_size
    dtype = float if weight is None else weight.dtype  # complex for steps off the real axis
    made = np.zeros((len(layer.cell.gates) * size, size), dtype)
    if layer.recurrent != "none":
        for row, place, unit in heads(layer):
            made[row, unit] = weight[row] if weight.ndim == 1 else weight[row, place]
    return made


def effective_adjoint(layer, d_matrix):
    """The gradient of the weight, from that of the matrix; None where there is no weight."""
    if layer.recurrent == "none":
        return None
    if layer.recurrent == "diagonal":
        return np.array([d_matrix[row, unit] for row, _, unit in heads(layer)])
    made = np.zeros((len(d_matrix), layer.hidden_size // layer.blocks), d_matrix.dtype)
    for row, place, unit in heads(layer):
        made[row, place] = d_matrix[row, unit]
    return made
