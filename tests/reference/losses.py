"""Losses over outputs [T, B, O]: the value, and its gradient with respect to the outputs.

Outputs [B, O], of a net with a Pool, are those of one step of every sequence that has any.

A mean is sum(w*l) / sum(w) over the terms that count; the mean of no terms is 0. For cross-entropy
a position is one term, and w includes the weight of the class. In losses of numbers every target
(and every quantile of it) is one; with nan="ignore" targets that are NaN are none.
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


# ---- losses of numbers: z [..., n, k], the k outputs of n targets, and target [..., n, 1] to terms
# [..., n, 1 or k] and slopes [..., n, k].


def binary_cross_entropy(loss, z, target):
    return softplus(z) - z * target, sigmoid(z) - target


def mse(loss, z, target):
    return (z - target) ** 2, 2 * (z - target)


def huber(loss, z, target):
    error = z - target
    sign = np.sign(error.real)
    near = abs(error.real) <= loss.delta
    terms = np.where(near, error**2 / 2, loss.delta * (sign * error - loss.delta / 2))
    return terms, np.where(near, error, loss.delta * sign)


def quantile(loss, z, target):
    level = np.array(loss.quantiles)
    below = z.real < target
    terms = np.where(below, level * (target - z), (level - 1) * (target - z))
    return terms, np.where(below, -level, 1 - level) * (z.real != target)


def gaussian_nll(loss, z, target):
    mean, log_variance = z[..., :1], z[..., 1:]
    square = (mean - target) ** 2 * np.exp(-log_variance)
    terms = (log_variance + square) / 2 + (np.log(2 * np.pi) / 2 if loss.full else 0)
    slopes = [(mean - target) * np.exp(-log_variance), (1 - square) / 2]
    return terms, np.concatenate(slopes, axis=-1)


OF_NUMBERS = {
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mse,
    "huber": huber,
    "quantile": quantile,
    "gaussian_nll": gaussian_nll,
}


def per_target(loss):
    """The number of outputs of each target."""
    if loss.kind == "quantile":
        return len(loss.quantiles)
    return 2 if loss.kind == "gaussian_nll" else 1


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
    if outputs.ndim == 2:
        value, d_outputs = evaluate(loss, outputs[None], *_one_step(target, weight, lengths))
        return value, d_outputs[0]
    n_steps, batch, width = outputs.shape
    counts, target = term_weights(loss, n_steps, batch, target, weight, lengths)
    if loss.kind == "cross_entropy":
        terms, slopes = cross_entropy(outputs, target)
        return _weighted(loss, counts, terms, counts[..., None], slopes)
    counts, target = counts[..., None, None], target[..., None]
    if loss.nan == "ignore":
        counts = counts * ~np.isnan(target)
        target = np.where(np.isnan(target), 0.0, target)
    if type(loss).__name__ == "NashSutcliffe":
        return nash_sutcliffe(loss, outputs, target[..., 0], counts[..., 0])
    z = outputs.reshape(n_steps, batch, width // per_target(loss), per_target(loss))
    terms, slopes = OF_NUMBERS[loss.kind](loss, z, target)
    counts = np.broadcast_to(counts, (*z.shape[:-1], 1))
    value, slopes = _weighted(loss, np.broadcast_to(counts, terms.shape), terms, counts, slopes)
    return value, slopes.reshape(outputs.shape)


def nash_sutcliffe(loss, outputs, target, counts):
    """The squared errors of each sequence and output over the deviations of its targets."""
    counts = np.broadcast_to(counts, outputs.shape)
    value, slopes, pairs = 0.0, np.zeros_like(outputs), 0
    for b, o in np.ndindex(outputs.shape[1:]):
        n, y, z = counts[:, b, o], target[:, b, o], outputs[:, b, o]
        if n.sum() == 0:
            continue
        deviations = (n * (y - (n * y).sum() / n.sum()) ** 2).sum()
        value += (n * (z - y) ** 2).sum() / deviations
        slopes[:, b, o] = 2 * n * (z - y) / deviations
        pairs += 1
    divisor = max(pairs, 1) if loss.reduction == "mean" else 1
    return value / divisor, slopes / divisor


def _weighted(loss, counts, terms, counts_of_slopes, slopes):
    divisor = counts.sum() if loss.reduction == "mean" else 1.0
    if divisor == 0:
        return 0.0, np.zeros_like(slopes)
    return (counts * terms).sum() / divisor, counts_of_slopes * slopes / divisor


def gauss_newton(loss, outputs, moved, target, weight=None, lengths=None):
    """H times the tangent `moved` [T, B, O] of the outputs, for the matrix H of a Gauss-Newton
    product: the Hessian of the loss by the outputs, by a complex step of the gradient, or for
    Gaussian negative log-likelihoods Fisher's matrix diag(exp(-s), 1/2).
    """
    if outputs.ndim == 2:
        given = _one_step(target, weight, lengths)
        return gauss_newton(loss, outputs[None], moved[None], *given)[0]
    step = 1e-30
    if loss.kind != "gaussian_nll":
        return evaluate(loss, outputs + 1j * step * moved, target, weight, lengths)[1].imag / step
    # The weight of a target is what its log-variance's slope is for a target equal to the mean.
    z = outputs.reshape(*outputs.shape[:2], -1, 2)
    at_mean = z[..., 0] if loss.step == "all" else _last(z[..., 0], lengths)
    at_mean = np.where(np.isnan(target), np.nan, at_mean)
    _, slopes = evaluate(loss, outputs, at_mean, weight, lengths)
    scale = 2 * slopes.reshape(z.shape)[..., 1:]
    fisher = np.concatenate([np.exp(-z[..., 1:]), np.full_like(z[..., 1:], 0.5)], axis=-1)
    return (scale * fisher * moved.reshape(z.shape)).reshape(outputs.shape)


def _one_step(target, weight, lengths):
    return (
        target[None],
        None if weight is None else weight[None],
        None if lengths is None else np.minimum(lengths, 1),
    )


def _last(array, lengths):
    n_steps, batch = array.shape[:2]
    ends = np.full(batch, n_steps) if lengths is None else np.asarray(lengths)
    return array[ends - 1, np.arange(batch)]
