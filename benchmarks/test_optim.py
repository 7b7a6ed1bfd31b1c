"""How long does one step of an optimizer over 10^7 parameters take, norm and clip included?

gigabytes_per_second in extra_info counts the arrays that a step must move: Adam reads the gradients
twice (for the norm and the update), parameters and two moments once, and writes the last three,
which is 8 arrays.
"""

import numpy as np
import pytest

import gradcore as gd

NET = gd.Stack(gd.LSTM(1_000, 1_100), gd.Linear(1_100, 700))
LR, LIMIT = 1e-3, 1.0


@pytest.mark.parametrize("clip", [None, gd.clip.GlobalNorm(LIMIT)], ids=["free", "clipped"])
def test_adam(benchmark, timed, clip):
    params = NET.init(seed=0)
    rng = np.random.default_rng(0)
    grads = gd.Grads(NET, rng.standard_normal(params.flat.size, dtype=np.float32))
    optimizer = gd.optim.Adam(params, lr=LR, clip=clip)
    before = params.flat.copy()
    report = optimizer.step(grads)
    # The first step of Adam is lr * g / (|g| + eps), by whatever factor a clip has scaled g.
    scale = 1.0 if clip is None else LIMIT / 10.0**report.grad_norm_log10
    g = scale * grads.flat.astype(np.float64)
    np.testing.assert_allclose(before - params.flat, LR * g / (np.abs(g) + 1e-8), atol=2e-7)
    timed(lambda: optimizer.step(grads), parameters=params.flat.size)
    moved = 8 * params.flat.nbytes
    benchmark.extra_info["gigabytes_per_second"] = moved / benchmark.stats.stats.min / 1e9
