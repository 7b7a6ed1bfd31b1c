"""The same bits for every memory budget, number of threads and run on one instruction set.

There is one test for each rule that ensures it (docs/decisions), all on nets that use every
feature.
"""

import threading

import numpy as np
import pytest

import gradcore as gd
from everything import BLOCK, SHAPES, STEPS, assert_same, everything, smallest, solve
from gradcore import _core
from nets import stack
from overriding import override
from problem import core_arguments, core_targets, from_core, isa, random_problem

LEVELS = _core.isa_available()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cell", SHAPES)
def test_memory_budgets(cell, level, dtype):
    """Weight gradients are summed in blocks of 128 absolute steps, and segments are whole
    blocks.
    """
    call = everything(cell, dtype)
    with isa(level):
        whole = solve(call, memory="full", threads=1)
        least, most = smallest(call, threads=1), whole.plan.bytes
        budgets = [least, (2 * least + most) // 3, (least + 2 * most) // 3, most - 1]
        parts = [solve(call, memory=budget, threads=1) for budget in budgets]
    assert whole.plan.segments == 1
    assert len({part.plan.segment_steps for part in parts}) >= 2
    for part in parts:
        assert part.plan.bytes <= part.plan.budget
        assert_same(whole, part)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cell", SHAPES)
def test_thread_counts(cell, level, dtype):
    """Threads divide outputs, never sums."""
    call = everything(cell, dtype)
    with isa(level):
        one = solve(call, memory="full", threads=1)
        for threads in (2, 3, 4):
            assert_same(one, solve(call, memory="full", threads=threads))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_threads_own_units_or_sequences(batch):
    """Threads divide units or sequences, depending on the batch and their number; both give the
    same bits.
    """
    call = everything("lstm", "float32", batch)
    one = solve(call, threads=1)
    for threads in (2, 3, 5):
        assert_same(one, solve(call, threads=threads))


@pytest.mark.parametrize("cell", SHAPES)
def test_budgets_and_threads_together(cell):
    call = everything(cell, "float32")
    whole = solve(call, memory="full", threads=1)
    assert_same(whole, solve(call, memory=smallest(call, threads=3), threads=3))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cell", SHAPES)
def test_runs(cell, level):
    """The call is repeated after other calls have used the memory, and after it was released to the
    system.
    """
    call = everything(cell, "float32")
    other = everything("gru", "float64")
    with isa(level):
        first = solve(call, threads=2)
        assert_same(first, solve(call, threads=2))
        solve(other, threads=2)
        assert_same(first, solve(call, threads=2))
        gd.release_memory()
        assert_same(first, solve(call, threads=2))


def test_concurrent_calls():
    """Four Python threads run at the same time, each with its own net."""
    calls = [everything(cell, "float32") for cell in SHAPES]
    alone = [solve(call, threads=1) for call in calls]
    together = [None] * len(calls)

    def work(i):
        together[i] = [solve(calls[i], threads=1 + i % 2) for _ in range(2)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one, results in zip(alone, together, strict=True):
        for result in results:
            assert_same(one, result)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cell", SHAPES)
def test_with_and_without_tape(cell, level):
    """The forward pass is one template, so value, apply and value_and_grad have the same states and
    loss.
    """
    (net, params, x), keywords = everything(cell, "float32")
    goal = {k: keywords[k] for k in ("y", "weight", "loss")}
    masks = {k: keywords[k] for k in ("lengths", "reset", "state", "train", "seed")}
    seen = np.zeros((STEPS, x.shape[1], net.output_size), np.float32)

    def function(outputs, t0, t1):
        seen[t0:t1] = outputs
        return 0.0, np.zeros_like(outputs)

    with isa(level):
        taped = solve(((net, params, x), keywords), threads=1)
        assert gd.value(net, params, x, **goal, **masks) == taped.loss
        outputs, state = gd.apply(net, params, x, **masks)
        gd.value_and_grad(net, params, x, **masks, loss=function)
    one, other = from_core(net, taped.state), from_core(net, state)
    assert {k: a.tobytes() for k, a in one.items()} == {k: a.tobytes() for k, a in other.items()}
    assert outputs.tobytes() == seen.tobytes()


def test_loss_functions_see_the_same_outputs():
    """Repeated often: a thread that entered the shorter last chunk early once overwrote another's
    rows.
    """
    net = stack("rnn", 3, 8, classes=64)
    params = net.init(seed=1)
    x = np.random.default_rng(11).standard_normal((BLOCK + 57, 1, 3)).astype(np.float32)
    outputs, _ = gd.apply(net, params, x, threads=1)
    seen = np.zeros_like(outputs)

    def function(outputs, t0, t1):
        seen[t0:t1] = outputs
        return 0.0, np.zeros_like(outputs)

    for threads in [2] * 150:
        seen[:] = np.nan
        with override(exact_threads=True):
            gd.value_and_grad(net, params, x, loss=function, threads=threads, memory="full")
        assert seen.tobytes() == outputs.tobytes()


# Holds where no later step affects an earlier output and no mask depends on the step's number.
ONE_WAY = [name for name, shape in SHAPES.items() if not shape[-1] and "masks" not in name]


@pytest.mark.parametrize("cell", ONE_WAY)
def test_cut_at_a_block(cell):
    """The second half, run from the state after the first, gives the same as one call over both."""
    (net, params, x), keywords = everything(cell, "float32", lengths=False)
    cut = 3 * BLOCK
    reset, start = keywords["reset"], keywords["state"]
    whole, end = gd.apply(net, params, x, reset=reset, state=start)
    first, state = gd.apply(net, params, x[:cut], reset=reset[:cut], state=start)
    second, last = gd.apply(net, params, x[cut:], reset=reset[cut:], state=state)
    assert np.concatenate([first, second]).tobytes() == whole.tobytes()
    for one, other in zip(end, last, strict=True):
        assert one.h.tobytes() == other.h.tobytes()


@pytest.mark.parametrize("cell", ONE_WAY)
def test_stepper(cell):
    (net, params, x), _ = everything(cell, "float32", lengths=False)
    outputs, _ = gd.apply(net, params, x[:40])
    stepper = gd.Stepper(net, params, x.shape[1])
    steps = [stepper.step(x_t).copy() for x_t in x[:40]]
    assert np.array(steps).tobytes() == outputs.tobytes()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_losses(loss):
    """Losses are summed in double precision in chunks with fixed borders."""
    net = stack("rnn", 3, 9, classes=5)
    problem = random_problem(net, gd.loss.LOSSES[loss], STEPS, 3, seed=8, weight=True, lengths=True)
    arguments, keywords = core_arguments(problem, "float32")
    goal = core_targets(problem, "float32")

    def value(**how):
        with override(exact_threads=True):
            return gd.value(*arguments, **keywords, **goal, **how)

    with pytest.raises(gd.MemoryBudgetError) as refused:
        value(memory=1)
    whole = value(memory="full", threads=1)
    assert value(memory=refused.value.smallest) == whole
    assert [value(threads=threads) for threads in (2, 3)] == [whole, whole]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_and_updates(dtype):
    """Norms are summed in chunks of 4,096 elements, which are added in the order of their
    indices.
    """
    net = stack("lstm", 30, 61, layers=2, classes=6)
    rng = np.random.default_rng(9)
    start = rng.standard_normal(net.n_parameters).astype(dtype)
    grads = gd.Grads(net, rng.standard_normal(net.n_parameters).astype(dtype))
    assert net.n_parameters > 10 * 4096
    found = []
    for threads in (1, 2, 3):
        params = gd.Params(net, start.copy())
        adam = gd.optim.Adam(params, lr=1e-2, clip=gd.clip.GlobalNorm(1.0))
        reports = [adam.step(grads, threads=threads) for _ in range(3)]
        found.append((params.flat.tobytes(), reports))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("level", LEVELS)
def test_padding_lanes(level):
    """Units are padded to whole lanes: a wider net whose other weights are zero has the
    same bits.
    """
    rng = np.random.default_rng(10)
    small = stack("gru", 5, 9, classes=3)
    wide = stack("gru", 5, 12, classes=3)
    params = small.init(seed=3, recurrent="uniform")
    widened = gd.Params(wide, np.zeros(wide.n_parameters, np.float32))
    for gate in range(3):
        rows, wider = slice(9 * gate, 9 * gate + 9), slice(12 * gate, 12 * gate + 9)
        for name in ("0.weight_ih", "0.bias_ih", "0.bias_hh"):
            widened[name][wider] = params[name][rows]
        widened["0.weight_hh"][wider, :9] = params["0.weight_hh"][rows]
    widened["1.weight"][:, :9] = params["1.weight"]
    widened["1.bias"][:] = params["1.bias"]
    x = rng.standard_normal((200, 3, 5)).astype(np.float32)
    with isa(level):
        narrow_outputs, _ = gd.apply(small, params, x)
        wide_outputs, _ = gd.apply(wide, widened, x)
    assert narrow_outputs.tobytes() == wide_outputs.tobytes()


def test_no_contraction():
    """a*b + c is fused only where the source says so, never by the compiler's choice."""
    assert "-ffp-contract=off" in gd.build_info().flags
    assert "-ffast-math" not in gd.build_info().flags
