"""The least time that a step of exact BPTT can take on a machine.

The forward and the backward pass each multiply the recurrent weights, G*H*H numbers, with the
states of B sequences: 2*G*H*H*B flops. No step can start before the previous one is done, so the
weights are read anew in each step, from the cache that holds a thread's share of them. The product
takes the time of its flops at the machine's peak or of reading the weights, whichever is longer.
All other products need not wait for each other and are done at peak: the gradient of the recurrent
weights (2*G*H*H*B flops), and the product with the input, the gradient of its weights and that of
the input (2*G*H*I*B flops each). Elementwise work and barriers are not counted.
"""

from __future__ import annotations

from .machine import Machine

__all__ = ["bound_us", "read_speed"]

ITEM_BYTES = {"float32": 4, "float64": 8}


def bound_us(
    machine: Machine,
    *,
    gates: int,
    inputs: int,
    hidden: int,
    batch: int,
    dtype: str = "float32",
) -> float:
    """Least microseconds per step, for all sequences together, with all of the machine's threads.

    It is for one layer, with the loss and all gradients of parameters and input. The formula is in
    the docstring of the module.
    """
    weights = gates * hidden * hidden
    peak = machine.all.flops[dtype]
    size = weights * ITEM_BYTES[dtype]
    products = max(
        2 * size / read_speed(machine, size / machine.threads),
        2 * 2 * weights * batch / peak,
    )
    unordered = 2 * weights * batch + 3 * 2 * gates * hidden * inputs * batch
    return (products + unordered / peak) * 1e6


def read_speed(machine: Machine, share: float) -> float:
    """Bytes per second that all threads read from the smallest cache that holds a thread's share.

    The cache must be larger than the share, because it also holds the states.
    """
    if share < machine.l1_bytes:
        return machine.all.read_l1
    return machine.all.read_l2 if share < machine.l2_bytes else machine.all.read_beyond
