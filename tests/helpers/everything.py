"""Calls that use every feature at once, and a comparison of all their results to the bit."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from nets import STRUCTURES, stack
from overriding import override
from problem import core_arguments, core_targets, random_problem

BLOCK = _core.block_steps()
STEPS = 6 * BLOCK + 57

# There is a lag longer than the shortest segment, a learned skip, and none; sizes are multiples of
# the lane width or not.
# With "masks" a net has LayerNorm, dropout and all random masks, in training mode; with "dense" or
# "residual" it has layers of these kinds between the recurrent ones.
SHAPES = {
    "lstm": (33, 3, gd.Skip(BLOCK + 12, learned=True, value=0.3), "floats", ()),
    "gru": (64, 5, gd.Skip(7, kind="mix", learned=True), "embedding", ()),
    "rnn": (97, 1, None, "floats", ()),
    "relu": (17, 9, gd.Skip(2, value=-0.5), "tokens", ()),
    "lstm, one and both ways": (17, 4, gd.Skip(5, value=-0.3), "floats", (1,)),
    "gru, both ways": (9, 3, gd.Skip(BLOCK + 3, kind="mix", learned=True), "embedding", (0, 1)),
    "lstm, masks": (33, 3, None, "floats", ()),
    "gru, dense": (17, 3, gd.Skip(7, kind="mix", learned=True), "floats", ()),
    "lstm, residual": (12, 5, gd.Skip(5, value=-0.3), "floats", ()),
    "gru, both ways, dense": (9, 4, None, "floats", (1,)),
    "lstm, both ways, residual": (12, 3, None, "embedding", (0,)),
    "gru, both ways, masks": (17, 5, gd.Skip(7, kind="mix", learned=True), "embedding", (1,)),
    "gru, diagonal": (33, 5, gd.Skip(7, kind="mix", learned=True), "floats", ()),
    "rnn, diagonal, masks": (97, 1, None, "floats", ()),
    # Heads that do not end with unit blocks, and more heads than these.
    "lstm, blocks": (48, 3, None, "floats", ()),
    "gru, blocks, both ways, masks": (20, 9, None, "embedding", (1,)),
    "rnn, blocks": (120, 1, gd.Skip(5, value=-0.3), "floats", ()),
    "gru, none": (17, 5, gd.Skip(7, value=-0.3), "tokens", ()),
    "lstm, none, masks": (33, 1, None, "floats", ()),
}


def everything(cell, dtype, batch=None, lengths=True, steps=STEPS):
    """Arguments of value_and_grad for a net of two layers with all masks."""
    hidden, sequences, skip, source, bidirectional = SHAPES[cell]
    net = stack(
        cell.split(",")[0],
        12,
        hidden,
        layers=2,
        skip=skip,
        residual=True,
        bidirectional=bidirectional,
        vocabulary=19 if source == "embedding" else None,
        classes=6,
        between=between_of(cell),
        masks="all" if "masks" in cell else "none",
        recurrent=next((kind for kind in STRUCTURES if kind in cell), "dense"),
    )
    problem = random_problem(
        net,
        gd.loss.CrossEntropy(ignore_index=-1),
        steps,
        batch or sequences,
        seed=7,
        tokens=source == "tokens",
        weight=True,
        lengths=lengths,
        reset=True,
        state=True,
        train="masks" in cell,
    )
    arguments, keywords = core_arguments(problem, dtype)
    wrt = ("params", "x", "state") if source == "floats" else ("params", "state")
    return arguments, {**keywords, **core_targets(problem, dtype), "wrt": wrt}


def between_of(cell):
    """The name of what stands between the layers."""
    kinds = {"masks": "all", "dense": "dense", "residual": "residual"}
    return next((name for kind, name in kinds.items() if kind in cell), "nothing")


def solve(call, **how):
    arguments, keywords = call
    with override(exact_threads=True):
        return gd.value_and_grad(*arguments, **keywords, **how)


def smallest(call, **how):
    with pytest.raises(gd.MemoryBudgetError) as refused:
        solve(call, memory=1, **how)
    return refused.value.smallest


def bits(result):
    """Everything that a call returns, as bytes by name."""
    found = {"loss": np.float64(result.loss).tobytes(), "grads": result.grads.flat.tobytes()}
    found["exponent"] = result.grads.exponent
    if result.dx is not None:
        found["dx"] = result.dx.tobytes() + result.dx_exponent.tobytes()
    for kind, states in (("state", result.state), ("dstate", result.dstate)):
        for i, layer in enumerate(states):
            for end, direction in (("", layer), ("_reverse", layer.reverse)):
                for name in ("h", "c", "skip"):
                    array = getattr(direction, name, None)
                    found[f"{kind} {i}.{name}{end}"] = None if array is None else array.tobytes()
    found["dstate exponent"] = result.dstate_exponent.tobytes()
    return found


def assert_same(one, other):
    a, b = bits(one), bits(other)
    assert [name for name in a if a[name] != b[name]] == []
    assert a.keys() == b.keys()
