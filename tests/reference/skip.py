"""Skip connections through time, which act on h only.

add: h = cell + s*past, mix: h = (1 - a)*cell + a*past, where past is h of `lag` steps before. s and
a are fixed, or learned: s = skip_scale [H], a = sigmoid(skip_logit [H]). All arrays are [B, H].
"""

from .elementwise import sigmoid


def factors(layer, params):
    """The factors of cell and past."""
    skip = layer.skip
    if skip.kind == "add":
        return 1.0, params["skip_scale"] if skip.learned else skip.value
    a = sigmoid(params["skip_logit"]) if skip.learned else skip.value
    return 1 - a, a


def forward(layer, params, cell, past):
    of_cell, of_past = factors(layer, params)
    return of_cell * cell + of_past * past


def backward(layer, params, cell, past, d_h):
    """Gradients of cell, of past, and of the learned parameter by name."""
    of_cell, of_past = factors(layer, params)
    learned = {}
    if layer.skip.learned and layer.skip.kind == "add":
        learned = {"skip_scale": (d_h * past).sum(axis=0)}
    elif layer.skip.learned:
        learned = {"skip_logit": (d_h * (past - cell)).sum(axis=0) * of_past * of_cell}
    return d_h * of_cell, d_h * of_past, learned


def tangent(layer, params, t_params, cell, past, t_cell, t_past):
    of_cell, of_past = factors(layer, params)
    t_h = of_cell * t_cell + of_past * t_past
    if layer.skip.learned and layer.skip.kind == "add":
        t_h = t_h + t_params["skip_scale"] * past
    elif layer.skip.learned:
        t_h = t_h + of_past * of_cell * t_params["skip_logit"] * (past - cell)
    return t_h
