"""Losses over outputs [T, B, O]: the value, and its gradient with respect to the outputs.

A mean is sum(w*l) / sum(w) over the terms that count, for binary cross-entropy and squared errors
also over the O outputs; the mean of no terms is 0. For cross-entropy, w includes the weight of the
class.
"""

import numpy as np

from .elementwise import sigmoid, softplus


def log_softmax(z):
    z = z - z.real.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(z, target):
    """Per row [..., O]: -log softmax(z)[target], and its gradient."""
    picked = target[..., None] == np.arange(z.shape[-1])
    return -np.where(picked, log_softmax(z), 0).sum(axis=-1), np.exp(log_softmax(z)) - picked


def binary_cross_entropy(z, target):
    return (softplus(z) - z * target).sum(axis=-1), sigmoid(z) - target


def mse(z, target):
    return ((z - target) ** 2).sum(axis=-1), 2 * (z - target)


FUNCTIONS = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mse,
}


def term_weights(loss, n_steps, batch, target, weight, lengths):
    """The weight of the term at (t, b), [T, B]; and the target of every term, [T, B, ...]."""
    t = np.arange(n_steps)[:, None]
    lengths = np.full(batch, n_steps) if lengths is None else np.asarray(lengths)
    counts = (t < lengths).astype(float)
    if loss.step == "last":
        counts = (t == lengths - 1).astype(float)
        target = np.broadcast_to(target, (n_steps, *target.shape))
        weight = None if weight is None else np.broadcast_to(weight, (n_steps, batch))
    if weight is not None:
        counts = counts * weight
    if loss.kind == "cross_entropy":
        counts = np.where(target == loss.ignore_index, 0.0, counts)
        target = np.where(counts != 0, target, 0)
        if loss.weight is not None:
            counts = counts * np.asarray(loss.weight)[target]
    else:
        target = np.where(counts[..., None] != 0, target, 0.0)
    return counts, target


def evaluate(loss, outputs, target, weight=None, lengths=None):
    """(value, d_outputs) of a loss described by the attributes of gradcore.loss objects."""
    n_steps, batch, width = outputs.shape
    counts, target = term_weights(loss, n_steps, batch, target, weight, lengths)
    terms, slopes = FUNCTIONS[loss.kind](outputs, target)
    divisor = 1.0
    if loss.reduction == "mean":
        divisor = counts.sum() * (1 if loss.kind == "cross_entropy" else width)
    if divisor == 0:
        return 0.0, np.zeros_like(slopes)
    return (counts * terms).sum() / divisor, counts[..., None] * slopes / divisor
