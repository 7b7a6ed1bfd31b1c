"""Gradients that do not fit float64: every array has its own power of two.

The adjoint recurrence is linear, so scaling the adjoint back to size 1 after every step and
counting the powers of two changes nothing but the range.
"""

from dataclasses import dataclass

import numpy as np

from . import pipeline

NOTHING = -(10**9)  # exponent of a sum without terms


@dataclass
class Scaled:
    """The true arrays are 2**exponent times these."""

    arrays: dict
    exponent: int

    def norm_log10(self):
        largest = max(np.abs(a).max() for a in self.arrays.values())
        norm = np.sqrt(sum(np.vdot(a / largest, a / largest) for a in self.arrays.values()))
        return np.log10(norm) + np.log10(largest) + self.exponent * np.log10(2.0)


@dataclass
class ScaledGradients:
    params: Scaled
    x: list | None  # of Scaled, by step
    state: Scaled  # "<layer>.past", "<layer>.c"


def backward(net, params, trace, d_outputs):
    """As pipeline.backward. Terms far below the largest one are lost, as in any sum."""
    adjoint, exponent = pipeline.zero_state(net, d_outputs.shape[1]), 0
    total = Scaled({name: np.zeros_like(a) for name, a in params.items()}, NOTHING)
    d_x = []
    for step, d_output in zip(trace.steps[::-1], d_outputs[::-1], strict=True):
        adjoint, exponent = normalised(adjoint, exponent)
        if d_output.any() and exponent < 0:
            adjoint, exponent = shifted(adjoint, exponent), 0
        adjoint, shares, d_x_t = pipeline.step_backward(
            net, params, step, np.ldexp(d_output, -exponent), adjoint
        )
        total = added(total, Scaled(shares, exponent))
        d_x.append(None if d_x_t is None else Scaled({"x": d_x_t}, exponent))
    state = {f"{i}.past": layer.past for i, layer in enumerate(adjoint)}
    state |= {f"{i}.c": layer.c for i, layer in enumerate(adjoint) if layer.c is not None}
    return ScaledGradients(total, None if d_x[0] is None else d_x[::-1], Scaled(state, exponent))


def shifted(states, by):
    return pipeline.map_states(lambda a: np.ldexp(a, by), states)


def normalised(states, exponent):
    """The same adjoint, scaled so that its largest element is in [0.5, 1)."""
    largest = max(np.abs(a).max() for layer in states for a in layer.arrays())
    if largest == 0:
        return states, exponent
    by = int(np.frexp(largest)[1])
    return shifted(states, -by), exponent + by


def added(total, shares):
    largest = max((np.abs(a).max() for a in shares.arrays.values()), default=0.0)
    if largest == 0:
        return total
    exponent = max(total.exponent, shares.exponent + int(np.frexp(largest)[1]))
    arrays = {
        name: np.ldexp(a, max(total.exponent - exponent, -5000)) for name, a in total.arrays.items()
    }
    for name, a in shares.arrays.items():
        arrays[name] = arrays[name] + np.ldexp(a, max(shares.exponent - exponent, -5000))
    return Scaled(arrays, exponent)
