"""Two levels of recomputation: groups of segments, their plans, and that the bits are the same."""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd
from everything import SHAPES, assert_same, everything, smallest, solve
from gradcore import _core
from gradcore._engine import planner
from gradcore._engine.operations import (
    OP_BYTES,
    OpKind,
    Schedule,
    Walk,
    fewest_slots,
    groups_of,
    listed,
)
from gradcore._engine.planner import Predictor, Workload
from nets import stack
from plans import walk
from problem import core_arguments, core_targets, random_problem

BLOCK = _core.block_steps()


def capacity(slots):
    return (slots + 1) * (slots + 4) // 2


@pytest.mark.parametrize("slots", range(12))
def test_groups_use_their_slots_up(slots):
    most = capacity(slots)
    for segments in range(1, most + 1):
        groups = groups_of(segments, slots)
        assert sum(groups) == segments
        assert min(groups) >= 1
        for g, size in enumerate(groups):
            assert g + max(0, size - 2) <= slots
        fewer = len(groups) - 1
        if fewer:
            assert sum(slots - fewer + 3 + j for j in range(fewer)) < segments
    if most > slots + 2:
        with pytest.raises(ValueError, match=f"{slots} slots are too few for {most + 1} segments"):
            groups_of(most + 1, slots)


def test_fewest_slots():
    segments = np.array([*range(1, 3000), 781_250, 10**9])
    slots = fewest_slots(segments)
    assert all(capacity(k) >= n for k, n in zip(slots.tolist(), segments.tolist(), strict=True))
    assert all(
        k == 0 or capacity(k - 1) < n
        for k, n in zip(slots.tolist(), segments.tolist(), strict=True)
    )


@pytest.mark.parametrize("steps", [5 * BLOCK, 11 * BLOCK + 1, 40 * BLOCK - 3, 97 * BLOCK])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 3, 100])
@pytest.mark.parametrize("shares", [(1,), (1, 1, 1), (1, 2, 2, 9)])
def test_every_step_goes_backward_once(steps, blocks, more, shares):
    # Parts behind a layer that shortens time have fewer steps.
    all_steps = tuple(-(-steps // share) for share in shares)
    segments = Walk(steps, blocks, 0).segments
    slots = min(int(fewest_slots(np.array(segments))) + more, max(0, segments - 2))
    schedule = Schedule(all_steps, blocks, slots)
    ops = listed(schedule)
    assert len(ops) == schedule.n_ops
    assert max((op.to_slot for op in ops), default=-1) < max(1, slots)
    assert max(op.t1 - op.t0 for op in ops) == schedule.longest.segment_steps
    # Parts run forward one after the other, and backward in the opposite order.
    ahead = sum(schedule.walk(part).segments for part in range(len(shares)))
    order = [op.part for op in ops]
    assert order == sorted(order[:ahead]) + sorted(order[ahead:], reverse=True)
    for part, own_steps in enumerate(all_steps):
        own = [op for op in ops if op.part == part]
        backward, kept = walk(own, own_steps)
        assert kept <= slots
        assert [t0 for t0, _ in backward[:-1]] == [t1 for _, t1 in backward[1:]]
        assert (backward[0][1], backward[-1][0]) == (own_steps, 0)
        forward = sum(op.t1 - op.t0 for op in own if op.kind is not OpKind.BACKWARD)
        assert forward - own_steps == schedule.walk(part).recomputed_steps
        runs = np.zeros(own_steps, int)
        for op in own:
            if op.kind is not OpKind.BACKWARD:
                runs[op.t0 : op.t1] += 1
        assert runs.max() == schedule.walk(part).levels + 1


LONG = gd.Stack(gd.Embedding(11, 4), gd.LSTM(4, 32), gd.Linear(32, 5))


def one_level(net, steps, batch):
    """The smallest budget with one level of recomputation."""
    names = frozenset({"params", "target", "state_out", "grads", "tokens"})
    work = Workload(
        net, np.dtype(np.float32), steps, batch, names, token_bytes=4, loss="cross_entropy"
    )
    predict = Predictor(work)
    rough = np.unique(np.geomspace(1, predict.blocks, 400).astype(int))
    best = min(rough, key=lambda size: predict(predict.schedule(int(size))))
    near = range(max(1, int(best * 0.95)), int(best * 1.05) + 2)
    return min(predict(predict.schedule(size)) for size in near)


def least(net, steps, batch):
    with pytest.raises(gd.MemoryBudgetError) as caught:
        gd.plan(net, steps, batch, memory=1)
    return caught.value.smallest


@pytest.mark.parametrize(("steps", "factor"), [(10**6, 1.9), (10**7, 2.2), (10**8, 2.1)])
def test_long_sequences_need_far_less(steps, factor):
    smallest = least(LONG, steps, 4)
    assert smallest * factor < one_level(LONG, steps, 4)
    plan = gd.plan(LONG, steps, 4, memory=smallest)
    assert (plan.bytes, plan.levels) == (smallest, 2)
    assert steps < plan.recomputed_steps < 2 * steps
    # The bytes of a plan include what Python stores for it.
    assert plan.schedule.ops().nbytes == OP_BYTES * plan.schedule.n_ops < plan.bytes


def test_a_second_level_only_where_one_cannot_meet_the_budget():
    steps, batch = 10**6, 4
    one, two = one_level(LONG, steps, batch), least(LONG, steps, batch)
    assert gd.plan(LONG, steps, batch, memory=one).levels == 1
    plans = [gd.plan(LONG, steps, batch, memory=two + (one - two) * part // 4) for part in range(4)]
    assert [plan.levels for plan in plans] == [2, 2, 2, 2]
    assert all(plan.bytes <= plan.budget for plan in plans)
    again = [plan.recomputed_steps for plan in plans]
    assert again == sorted(again, reverse=True)
    assert again[0] > again[-1]


# With twelve segments of one block, two levels take 3 or 4 slots instead of 10. The skip lags of
# SHAPES are longer than a segment.
STEPS = 11 * BLOCK + 57


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", SHAPES)
def test_the_same_bits_below_one_level(cell, threads):
    """Tests lengths, resets, initial states, skips longer than a segment, both directions and
    random masks.
    """
    call = everything(cell, "float32", steps=STEPS)
    whole = solve(call, memory="full", threads=1)
    budget = smallest(call, threads=threads)
    part = solve(call, memory=budget, threads=threads)
    assert part.plan.levels == 2
    assert part.plan.bytes == budget
    if threads == 1:  # the planner assumes as many threads as the cost model allows
        assert part.arena_bytes <= budget
    assert_same(whole, part)


@pytest.mark.parametrize("slots", [4, 5, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_slots(slots, dtype, monkeypatch):
    """Tests two to four groups of segments, also with a loss function."""
    steps = 14 * BLOCK - 1
    net = stack("gru", 3, 9, layers=2, skip=gd.Skip(BLOCK + 5, learned=True), classes=4)
    problem = random_problem(
        net, gd.loss.CrossEntropy(), steps, 2, seed=1, lengths=True, reset=True, state=True
    )
    arguments, keywords = core_arguments(problem, dtype)
    call = (
        arguments,
        {
            **keywords,
            **core_targets(problem, dtype),
            "wrt": ("params", "x", "state"),
        },
    )
    whole = solve(call, memory="full", threads=1)

    def forced(predict, budget):
        return predict.schedule(1, slots)

    monkeypatch.setattr("gradcore._engine.planner._choose_gradient", forced)
    planner.make_plan.cache_clear()
    part = solve(call, memory="full", threads=2)
    planner.make_plan.cache_clear()
    assert (part.plan.levels, part.plan.slots) == (2, slots)
    assert_same(whole, part)


def test_a_loss_function_with_two_levels():
    steps = 40 * BLOCK
    net = gd.Stack(gd.RNN(2, 16))
    params = net.init(seed=1)
    x = np.random.default_rng(0).standard_normal((steps, 1, 2)).astype(np.float32)
    seen = []

    def loss(outputs, t0, t1):
        seen.append((t0, t1))
        return float(np.square(outputs, dtype=np.float64).sum()), 2 * outputs

    whole = gd.value_and_grad(net, params, x, loss=loss, memory="full")
    seen.clear()
    with pytest.raises(gd.MemoryBudgetError) as caught:
        gd.value_and_grad(net, params, x, loss=loss, memory=1)
    part = gd.value_and_grad(net, params, x, loss=loss, memory=caught.value.smallest)
    assert part.plan.levels == 2
    assert part.grads == whole.grads
    assert sorted(seen) == [(t, t + part.plan.segment_steps) for t, _ in sorted(seen)]
    assert len(seen) == part.plan.segments


def test_progress_reaches_its_end(monkeypatch):
    """done and total count every run of a step, including the third one."""
    steps = 300 * BLOCK
    params = LONG.init()
    x = np.zeros((steps, 1), np.uint8)
    looks = []
    result = gd.value_and_grad(
        LONG,
        params,
        x,
        x,
        loss="cross_entropy",
        memory=least(LONG, steps, 1) + x.size * 8,
        progress=lambda done, total: looks.append((done, total)),
    )
    assert result.plan.levels == 2
    assert looks
    assert all(0 <= done <= total for done, total in looks)
    assert {total for _, total in looks} == {2 * steps + result.plan.recomputed_steps}
