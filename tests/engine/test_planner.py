"""Plans: their operations, the bytes that they predict, and the budgets that they meet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from gradcore._engine.operations import (
    OpKind,
    fewest_slots,
)
from gradcore._engine.planner import CHEAP_BLOCKS, FORWARD_BLOCKS, Predictor, Workload
from plans import forward_ops, gradient_ops, walk

BLOCK = _core.block_steps()

NET = gd.Stack(gd.Embedding(11, 4), gd.LSTM(4, 9, skip=gd.Skip(3)), gd.GRU(9, 8), gd.Linear(8, 5))


@pytest.mark.parametrize("steps", [1, 127, 128, 129, 256, 257, 640, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_gradient_ops_cover_every_step_once_backward(steps, size):
    if size > -(-steps // BLOCK):
        size = -(-steps // BLOCK)
    ops = gradient_ops(steps, size)
    backward, kept = walk(ops, steps)
    assert backward[0][1] == steps
    assert backward[-1][0] == 0
    assert all(late[0] == early[1] for late, early in itertools.pairwise(backward))
    assert len(backward) == -(-steps // (size * BLOCK))
    assert all(t1 - t0 == size * BLOCK for t0, t1 in backward[1:-1])
    assert kept == max(0, len(backward) - 2)
    # The last segment has the full length, except for a last block that is shorter.
    recomputed = sum(op.t1 - op.t0 for op in ops if op.kind is OpKind.FORWARD)
    assert recomputed == max(0, -(-steps // BLOCK) - size) * BLOCK


@pytest.mark.parametrize("steps", [1, 128, 129, 1000])
@pytest.mark.parametrize("size", [1, 2])
def test_forward_ops_emit_every_step_once(steps, size):
    size = min(size, -(-steps // BLOCK))
    ops = forward_ops(steps, size)
    assert [op.kind for op in ops] == [OpKind.EMIT] * -(-steps // (size * BLOCK))
    assert walk(ops, steps) == ([], 0)
    assert [t for op in ops for t in range(op.t0, op.t1)] == list(range(steps))


def test_what_fits_is_not_recomputed():
    plan = gd.plan(NET, 1000, 3)
    assert (plan.segments, plan.recomputed_steps, plan.slots) == (1, 0, 0)
    assert plan.segment_steps == 1000
    assert plan.budget is not None
    assert gd.plan(NET, 1000, 3, memory="full").budget is None


def test_full_ignores_what_is_left(monkeypatch):
    from gradcore._base import memory

    monkeypatch.setattr(memory, "_last_look", None)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4)
    with pytest.raises(gd.MemoryBudgetError):
        gd.plan(NET, 1000, 3)
    assert gd.plan(NET, 1000, 3, memory="full").segments == 1


@pytest.mark.parametrize("steps", [129, 1000, 5000, 100_000])
@pytest.mark.parametrize("batch", [1, 7])
def test_the_smallest_budget_is_named_and_met(steps, batch):
    with pytest.raises(gd.MemoryBudgetError, match="memory must be at least") as caught:
        gd.plan(NET, steps, batch, memory=1000)
    smallest = caught.value.smallest
    assert f"{smallest} bytes" in str(caught.value)
    assert gd.plan(NET, steps, batch, memory=smallest).bytes == smallest
    with pytest.raises(gd.MemoryBudgetError):
        gd.plan(NET, steps, batch, memory=smallest - 1)


@pytest.mark.parametrize(
    "net",
    [
        NET,
        gd.Stack(gd.LSTM(3, 64)),
        gd.Stack(gd.GRU(5, 16, skip=gd.Skip(700))),
        gd.Stack(gd.RNN(1, 1)),
    ],
)
@pytest.mark.parametrize("steps", [300, 4000])
def test_no_segment_length_is_smaller(net, steps):
    """The search tries only a few segment lengths; this test tries all of them."""
    with pytest.raises(gd.MemoryBudgetError) as caught:
        gd.plan(net, steps, 2, memory=10, loss="mse")
    names = {"params", "target", "state_out", "grads", "tokens" if net.embedding else "x"}
    work = Workload(
        net,
        np.dtype(np.float32),
        steps,
        2,
        frozenset(names),
        token_bytes=4 if net.embedding else 0,
        loss="mse",
    )
    predict = Predictor(work)
    every = []
    for size in range(1, -(-steps // BLOCK) + 1):
        segments = predict.schedule(size).longest.segments
        least = int(fewest_slots(np.array(segments)))
        every += [
            predict(predict.schedule(size, slots))
            for slots in range(least, max(least, segments - 2) + 1)
        ]
    assert caught.value.smallest == min(every)


@pytest.mark.parametrize("percent", [99, 90, 50, 30, 15])
def test_a_budget_that_covers_much_is_used(percent):
    full = gd.plan(NET, 20_000, 4, memory="full")
    budget = full.bytes * percent // 100
    plan = gd.plan(NET, 20_000, 4, memory=budget)
    # The rest is less than a block and a state at a border take.
    assert 0.98 * budget - 0.01 * full.bytes < plan.bytes <= budget
    assert plan.recomputed_steps == pytest.approx(20_000 * (1 - percent / 100), abs=500)


def test_a_budget_that_covers_little_is_left_alone():
    with pytest.raises(gd.MemoryBudgetError) as caught:
        gd.plan(NET, 100_000, 4, memory=1)
    full = gd.plan(NET, 100_000, 4, memory="full")
    plan = gd.plan(NET, 100_000, 4, memory=full.bytes // 10)
    assert plan.segment_steps == CHEAP_BLOCKS * BLOCK
    assert plan.bytes < full.bytes / 20
    assert caught.value.smallest <= plan.bytes


@pytest.mark.parametrize("budget", [1_050_000, 1_500_000, 3_000_000, 10_000_000, 30_000_000])
def test_every_budget_is_kept(budget):
    assert gd.plan(NET, 20_000, 4, memory=budget).bytes <= budget


CASES = list(itertools.product([1, 130, 700], [("params",), ("state",)], [False, True]))


@pytest.mark.parametrize(("steps", "wrt", "masks"), CASES)
@pytest.mark.parametrize("memory", ["full", None])
def test_the_plan_is_what_the_call_does(steps, wrt, masks, memory):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (steps, 3)), rng.integers(0, 5, (steps, 3))
    params = NET.init()
    given = {}
    if masks:
        given = {
            "lengths": np.array([1, steps, steps]),
            "reset": np.zeros((steps, 3), bool),
            "weight": np.ones((steps, 3), np.float32),
        }
    result = gd.value_and_grad(
        NET, params, x, y, loss="cross_entropy", wrt=wrt, memory=memory, **given
    )
    plan = gd.plan(NET, steps, 3, wrt=wrt, memory=memory, **dict.fromkeys(given, True))
    assert result.plan == plan
    assert result.arena_bytes == plan.bytes


def test_copies_count():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (300, 3), dtype=np.int32)
    y = rng.integers(0, 5, (300, 3))
    params = NET.init()
    plain = gd.value_and_grad(NET, params, x, y, loss="cross_entropy")
    copied = gd.value_and_grad(
        NET, params, np.asfortranarray(x), y.astype(np.uint8), loss="cross_entropy"
    )
    assert copied.plan.bytes == plain.plan.bytes + x.nbytes + y.nbytes
    assert copied.grads == plain.grads


def test_a_loss_function_counts_its_outputs():
    net = gd.Stack(gd.RNN(2, 3))
    plans = [gd.plan(net, 128, 2, loss=loss) for loss in (lambda outputs, t0, t1: None, "mse")]
    assert plans[0].bytes >= plans[1].bytes + 128 * 2 * 3 * 4


def test_forward_only_plans():
    plan = gd.plan(NET, 100_000, 2, wrt=())
    assert plan.recomputed_steps == 0
    assert plan.segment_steps == FORWARD_BLOCKS * BLOCK
    with pytest.raises(gd.MemoryBudgetError) as caught:
        gd.plan(NET, 100_000, 2, wrt=(), memory=1)
    smallest = gd.plan(NET, 100_000, 2, wrt=(), memory=caught.value.smallest)
    assert smallest.bytes == caught.value.smallest < plan.bytes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((NET, 0, 1), gd.ArgumentError, "steps must be at least 1; got 0"),
        ((NET, 10, 1.5), gd.DTypeError, r"batch must be an integer; got 1\.5"),
        (("net", 10, 1), gd.DTypeError, r"net must be a gradcore\.Stack; got str"),
    ],
)
def test_wrong_sizes(arguments, error, message):
    with pytest.raises(error, match=message):
        gd.plan(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, gd.DTypeError, "dtype must be 'float32' or 'float64'"),
        ({"loss": "hinge"}, gd.ArgumentError, "loss must be one of 'cross_entropy'"),
        ({"loss": 3}, gd.DTypeError, "loss must be 'cross_entropy'"),
        ({"loss": gd.loss.CrossEntropy}, gd.DTypeError, "an object of gradcore.loss"),
        ({"wrt": ("y",)}, gd.ArgumentError, "wrt must name one or more of"),
        ({"wrt": "params"}, gd.DTypeError, "wrt must be a tuple of names"),
        ({"wrt": ("x",)}, gd.ArgumentError, "x holds integer tokens, which have no gradient"),
        ({"memory": "much"}, gd.ArgumentError, "memory must be None, 'full'"),
        ({"threads": 0}, gd.ArgumentError, "threads must be at least 1"),
        ({"tokens": False}, gd.ArgumentError, "tokens must not be False"),
        ({"lengths": np.ones(3)}, gd.DTypeError, "lengths must be True or False"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        gd.plan(NET, 10, 3, **options)
