"""The least time that a step of exact BPTT can take on a machine.

Forward and backward each multiply the recurrent weights, G*H*H numbers, with the states of B
sequences: 2*G*H*H*B flops. No step can begin before the one before it is done, so the weights come
anew from whichever cache holds a thread's share of them. That product takes the flops at the
machine's peak or the reading at the cache's speed, whichever is longer. What has no such order is
done at peak: the gradient of the recurrent weights (2*G*H*H*B flops) and the input's product,
weight gradient and own gradient (2*G*H*I*B each). Elementwise work and barriers are not counted.
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
    """Microseconds per step, all sequences together, of all the machine's threads.

    Of one layer; loss, all gradients of parameters and input. The module's text has the formula.
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
    """Bytes per second of all threads from the first cache that is larger than a thread's share.

    Larger, not as large: the states lie beside the weights.
    """
    if share < machine.l1_bytes:
        return machine.all.read_l1
    return machine.all.read_l2 if share < machine.l2_bytes else machine.all.read_beyond
