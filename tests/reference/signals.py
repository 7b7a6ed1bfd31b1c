"""The error-to-signal ratio of one sequence after the other, with the filter as a matrix."""

import numpy as np


def error_to_signal(loss, outputs, y, lengths=None):
    """(value, d_outputs) of a loss with the attributes of gradcore.loss.ErrorToSignal."""
    steps, batch, width = outputs.shape
    lengths = np.full(batch, steps) if lengths is None else lengths
    value, slopes, pairs = 0.0, np.zeros_like(outputs), 0
    for b, o in np.ndindex(batch, width):
        n = lengths[b]
        if n == 0:
            continue
        part, slope = _of_one(loss, outputs[:n, b, o], y[:n, b, o])
        value, pairs = value + part, pairs + 1
        slopes[:n, b, o] = slope
    divisor = max(pairs, 1) if loss.reduction == "mean" else 1
    return value / divisor, slopes / divisor


def _of_one(loss, z, y):
    n, e = len(z), z - y
    emphasis = np.eye(n) - loss.pre_emphasis * np.eye(n, k=-1)
    p, energy = emphasis @ e, np.mean((emphasis @ y) ** 2) + loss.eps
    value, slope = np.mean(p**2) / energy, 2 * emphasis.T @ p / n / energy
    if loss.dc:
        power = np.mean(y**2) + loss.eps
        value, slope = value + np.mean(e) ** 2 / power, slope + 2 * np.mean(e) / n / power
    return value, slope
