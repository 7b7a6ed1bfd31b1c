"""Pool: rows [T, B, W] of the steps of every sequence become one row [B, W].

Everything is written for one sequence after the other, with all of its rows at hand. Attention is
that of Raffel and Ellis 2016, eq. 1 and 2, with a linear score.
"""

import numpy as np


def probabilities(weight, rows):
    """Softmax over the steps of the scores of rows [L, W]."""
    scores = rows @ weight[0]
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def _lengths(rows, lengths):
    return [len(rows)] * rows.shape[1] if lengths is None else [int(n) for n in lengths]


def forward(layer, params, rows, lengths):
    pooled = np.zeros(rows.shape[1:], rows.dtype)
    for b, n in enumerate(_lengths(rows, lengths)):
        own = rows[:n, b]
        if n == 0:
            continue
        if layer.kind == "last":
            pooled[b] = own[-1]
        elif layer.kind == "mean":
            pooled[b] = own.mean(axis=0)
        elif layer.kind == "max":
            # Of complex numbers, which carry a tangent, the one with the largest real part.
            pooled[b] = np.take_along_axis(own, own.real.argmax(axis=0)[None], 0)[0]
        else:
            pooled[b] = probabilities(params["weight"], own) @ own
    return pooled


def backward(layer, params, rows, lengths, d):
    """The gradient of the rows, and of the parameters by name."""
    d_rows = np.zeros(rows.shape, d.dtype)
    d_weight = np.zeros((1, rows.shape[2]), d.dtype)
    for b, n in enumerate(_lengths(rows, lengths)):
        own = rows[:n, b]
        if n == 0:
            continue
        if layer.kind == "last":
            d_rows[n - 1, b] = d[b]
        elif layer.kind == "mean":
            d_rows[:n, b] = d[b] / n
        elif layer.kind == "max":
            d_rows[own.real.argmax(axis=0), b, np.arange(rows.shape[2])] = d[b]
        else:
            a = probabilities(params["weight"], own)
            d_a = own @ d[b]
            d_score = a * (d_a - a @ d_a)
            d_rows[:n, b] = a[:, None] * d[b] + d_score[:, None] * params["weight"][0]
            d_weight[0] += d_score @ own
    return d_rows, {"weight": d_weight} if layer.kind == "attention" else {}


def tangent(layer, params, t_params, rows, lengths, t_rows):
    t_pooled = np.zeros(rows.shape[1:])
    for b, n in enumerate(_lengths(rows, lengths)):
        own, t_own = rows[:n, b], t_rows[:n, b]
        if n == 0:
            continue
        if layer.kind == "last":
            t_pooled[b] = t_own[-1]
        elif layer.kind == "mean":
            t_pooled[b] = t_own.mean(axis=0)
        elif layer.kind == "max":
            t_pooled[b] = t_own[own.argmax(axis=0), np.arange(rows.shape[2])]
        else:
            a = probabilities(params["weight"], own)
            t_score = t_own @ params["weight"][0] + own @ t_params["weight"][0]
            t_a = a * (t_score - a @ t_score)
            t_pooled[b] = t_a @ own + a @ t_own
    return t_pooled
