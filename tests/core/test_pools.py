"""A Pool over the steps of a sequence: bits, PyTorch, ragged batches, ties, scores and adjoints far
outside the range, long sequences, memory. Agreement with the reference is in test_agreement and in
the tests of Jacobian products, which take pooled nets among their cases.
"""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from everything import BLOCK, assert_same, smallest, solve
from gradcore import _core, jacobian
from nets import POOLS
from problem import (
    assert_agree,
    by_core,
    by_reference,
    core_arguments,
    core_targets,
    error,
    isa,
    random_problem,
)

LEVELS = _core.isa_available()
each_kind = pytest.mark.parametrize("kind", POOLS)


def pooled_net(kind, *, hidden=17, inputs=5, both=False, dense=False, classes=4):
    width = hidden * (2 if both else 1)
    between = [gd.Dense(width, 9, "tanh")] if dense else []
    width = 9 if dense else width
    return gd.Stack(
        gd.GRU(inputs, hidden, bidirectional=both),
        *between,
        gd.Pool(kind, width),
        gd.Dense(width, 7, "gelu"),
        gd.LayerNorm(7),
        gd.Linear(7, classes),
    )


def call_of(net, dtype, steps=6 * BLOCK + 57, batch=5, seed=1):
    loss = gd.loss.CrossEntropy()
    problem = random_problem(
        net, loss, steps, batch, seed=seed, weight=True, lengths=True, state=True
    )
    arguments, keywords = core_arguments(problem, dtype)
    wrt = ("params", "x", "state")
    return arguments, {**keywords, **core_targets(problem, dtype), "wrt": wrt}


# ---- bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("both", "dense"), [(False, False), (True, False), (True, True)])
@each_kind
def test_budgets_and_threads_give_the_same_bits(kind, both, dense, level, dtype):
    call = call_of(pooled_net(kind, both=both, dense=dense), dtype)
    with isa(level):
        whole = solve(call, memory="full", threads=1)
        least, most = smallest(call, threads=1), whole.plan.bytes
        for budget in (least, (least + most) // 2, most - 1):
            part = solve(call, memory=budget, threads=1)
            assert part.plan.segments > 1
            assert part.arena_bytes <= part.plan.bytes <= budget
            assert_same(whole, part)
        for threads in (2, 3, 4):
            assert_same(whole, solve(call, memory="full", threads=threads))
        assert_same(whole, solve(call, memory=smallest(call, threads=3), threads=3))


@each_kind
def test_tangents_do_not_change_the_outputs(kind):
    (net, params, x), keywords = call_of(pooled_net(kind), "float32")
    masks = {name: keywords[name] for name in ("lengths", "state")}
    outputs, _ = gd.apply(net, params, x, **masks)
    rng = np.random.default_rng(0)
    v = rng.standard_normal((2, net.n_parameters)).astype(np.float32)
    found = [
        jacobian.jvp(net, params, x, dparams=v, **masks, threads=threads) for threads in (1, 3)
    ]
    for one in found:
        assert one.outputs.tobytes() == outputs.tobytes()
        assert one.d_outputs.tobytes() == found[0].d_outputs.tobytes()


# ---- other ways


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_against_pytorch(kind, both):
    """Masked pools written by hand; the direction that reads backward gets packed sequences."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    rng = np.random.default_rng(3)
    net = gd.Stack(
        gd.GRU(5, 12, bidirectional=both),
        gd.Pool(kind, 24 if both else 12),
        gd.Linear(24 if both else 12, 4),
    )
    params = net.init(seed=2, dtype="float64")
    x, y = rng.standard_normal((60, 4, 5)), rng.integers(4, size=4)
    lengths = np.array([60, 1, 33, 17])
    if kind == "attention":
        params["1.weight"] *= 4
    mine = gd.value_and_grad(
        net, params, x, y, loss="cross_entropy", lengths=lengths, wrt=("params", "x")
    )
    tensors = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    gru = torch.nn.GRU(5, 12, bidirectional=both, dtype=torch.float64)
    names = [n.removeprefix("0.") for n in tensors if n.startswith("0.")]
    own = {
        f"{n.removesuffix('_reverse')}_l0{'_reverse' if n.endswith('_reverse') else ''}": tensors[
            f"0.{n}"
        ]
        for n in names
    }
    t_x = torch.tensor(x, requires_grad=True)
    pad = torch.nn.utils.rnn
    packed = pad.pack_padded_sequence(t_x, torch.tensor(lengths), enforce_sorted=False)
    rows, _ = pad.pad_packed_sequence(torch.func.functional_call(gru, own, (packed,))[0])
    late = torch.arange(60)[:, None, None] >= torch.tensor(lengths)[None, :, None]
    if kind == "last":
        pooled = rows[torch.tensor(lengths) - 1, torch.arange(4)]
    elif kind == "mean":
        pooled = rows.masked_fill(late, 0.0).sum(0) / torch.tensor(lengths)[:, None]
    elif kind == "max":
        pooled = rows.masked_fill(late, -torch.inf).max(0).values
    else:
        scores = (rows @ tensors["1.weight"].T).masked_fill(late, -torch.inf)
        pooled = (scores.softmax(0) * rows).sum(0)
    outputs = pooled @ tensors["2.weight"].T + tensors["2.bias"]
    loss = torch.nn.functional.cross_entropy(outputs, torch.tensor(y))
    loss.backward()
    np.testing.assert_allclose(mine.loss, loss.item(), rtol=1e-13)
    np.testing.assert_allclose(mine.dx, t_x.grad.numpy(), atol=1e-14)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(mine.grads[name], tensor.grad.numpy(), atol=1e-13)


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_dot_products(kind, both):
    """<J v, w> = <v, J^T w> of the core's tangents and gradients."""
    (net, params, x), keywords = call_of(pooled_net(kind, both=both), "float64", steps=150)
    masks = {name: keywords[name] for name in ("lengths", "state")}
    rng = np.random.default_rng(5)
    v, v_x = rng.standard_normal((1, net.n_parameters)), rng.standard_normal((1, *x.shape))
    w = rng.standard_normal((1, x.shape[1], net.output_size))
    clean = np.nan_to_num(x)
    ahead = jacobian.jvp(net, params, clean, dparams=v, dx=v_x, **masks)
    back = jacobian.vjp(net, params, clean, d_outputs=w, wrt=("params", "x"), **masks)
    left = np.vdot(ahead.d_outputs, w)
    right = np.vdot(v[0], back.grads[0].flat) + np.vdot(v_x, back.dx)
    assert left == pytest.approx(right, rel=tolerances.DOT_PRODUCT)


# ---- ragged batches


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_each_sequence_is_as_if_alone(kind, both):
    net = pooled_net(kind, both=both)
    params = net.init(seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 5, 5))
    lengths = np.array([300, 1, 129, 128, 77])
    y = rng.integers(4, size=5)
    loss = gd.loss.CrossEntropy(reduction="sum")
    together = gd.value_and_grad(net, params, x, y, loss=loss, lengths=lengths)
    outputs, _ = gd.apply(net, params, x, lengths=lengths)
    total = np.zeros(net.n_parameters)
    for b, n in enumerate(lengths):
        own = np.ascontiguousarray(x[:n, b : b + 1])
        alone, _ = gd.apply(net, params, own)
        np.testing.assert_allclose(outputs[b], alone[0], rtol=1e-12, atol=1e-13)
        total += gd.value_and_grad(net, params, own, y[b : b + 1], loss=loss).grads.flat
    np.testing.assert_allclose(together.grads.flat, total, rtol=1e-9, atol=1e-11)


@each_kind
def test_a_sequence_without_steps_counts_for_nothing(kind):
    net = pooled_net(kind)
    params = net.init(seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((40, 3, 5)), np.array([1, 2, 3])
    x[:, 1] = np.nan
    some = gd.value_and_grad(net, params, x, y, loss="cross_entropy", lengths=[40, 0, 7])
    fewer = gd.value_and_grad(
        net, params, x[:, ::2].copy(), y[::2].copy(), loss="cross_entropy", lengths=[40, 7]
    )
    assert some.loss == pytest.approx(fewer.loss, rel=1e-14)
    assert some.loss_weight == 2
    np.testing.assert_allclose(some.grads.flat, fewer.grads.flat, rtol=1e-9, atol=1e-13)
    outputs, _ = gd.apply(net, params, x, lengths=[40, 0, 7])
    assert not outputs[1].any()
    none = gd.value_and_grad(net, params, x, y, loss="cross_entropy", lengths=[0, 0, 0])
    assert none.loss == 0
    assert not none.grads.flat.any()


@pytest.mark.parametrize("steps", [1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize(("hidden", "batch"), [(1, 1), (16, 1), (33, 2)])
@each_kind
def test_sizes_at_the_edges(kind, hidden, batch, steps):
    net = gd.Stack(gd.LSTM(3, hidden), gd.Pool(kind, hidden), gd.Linear(hidden, 2))
    problem = random_problem(net, gd.loss.MeanSquaredError(), steps, batch, seed=4)
    tolerance = tolerances.DOUBLE * (tolerances.ONE_UNIT if hidden == 1 else 1)
    assert_agree(by_core(problem), by_reference(problem), tolerance)


# ---- ties of the maximum


@pytest.mark.parametrize("both", [False, True])
def test_the_first_of_equal_maxima_has_the_gradient(both):
    """The input is the same at the steps 3, 9 and 20, and smaller elsewhere."""
    hidden = 3
    net = gd.Stack(
        gd.RNN(hidden, hidden, nonlinearity="relu", bias=False, bidirectional=both),
        gd.Pool("max", hidden * (1 + both)),
    )
    params = net.init(seed=0, dtype="float64")
    for name, array in params.items():
        array[...] = np.eye(hidden) if "weight_ih" in name else 0.0
    x = np.zeros((30, 2, hidden))
    x[[3, 9, 20]] = 5.0
    x[9, 1] = 0.0
    x[3, 1] = 0.0
    d = np.ones((2, hidden * (1 + both)))
    found = gd.value_and_grad(net, params, x, d, loss=gd.loss.Given(), wrt=("x",))
    expected = np.zeros_like(x)
    expected[3, 0] = expected[20, 1] = 1 + both
    np.testing.assert_array_equal(found.dx, expected)


def test_a_maximum_of_zeros():
    """A relu that is always at zero ties at every step; the first has the gradient."""
    net = gd.Stack(gd.RNN(2, 4, bias=False), gd.Pool("max", 4))
    params = net.init(seed=0, dtype="float32")
    params.flat[...] = 0.0
    x = np.ones((BLOCK + 5, 1, 2), np.float32)
    found = jacobian.hidden_gradients(
        net, params, x, np.ones((1, 4), np.float32), loss=gd.loss.Given()
    )
    assert np.flatnonzero(found.dh[:, 0].any(axis=1)).tolist() == [0]


# ---- attention


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_any_size(dtype, size):
    net = gd.Stack(gd.GRU(3, 8), gd.Pool("attention", 8), gd.Linear(8, 2))
    problem = random_problem(
        net, gd.loss.MeanSquaredError(), 200, 4, seed=6, lengths=True, state=True
    )
    direction = problem.params["1.weight"]
    # A direction that float32 holds exactly stays exact times a power of two.
    problem.params["1.weight"] = (
        direction * 2.0 ** np.round(np.log2(size)) if size else direction * 0
    )
    expected = by_reference(problem)
    got = by_core(problem, dtype)
    assert np.isfinite(got.outputs).all()
    # Scores are rounded before they are multiplied by so much: the probabilities of float32 rows
    # have fewer digits the larger the scores are.
    if size <= 1 or (dtype == "float64" and size < 1e6):
        tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE * max(1, size)
        assert_agree(got, expected, tolerance)


@pytest.mark.parametrize("rising", [False, True])
def test_scores_that_rise_or_fall_at_every_step(rising):
    """The largest score so far changes at every step, or never after the first."""
    steps = 3 * BLOCK + 11
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity", bias=False), gd.Pool("attention", 1))
    params = net.init(seed=0, dtype="float64")
    params["0.weight_ih"][...], params["0.weight_hh"][...] = 1.0, 0.0
    params["1.weight"][...] = 3.0
    values = np.linspace(-300.0, 300.0, steps)[:: 1 if rising else -1]
    x = np.ascontiguousarray(values[:, None, None])
    outputs, _ = gd.apply(net, params, x)
    shares = np.exp(3 * (values - values.max()))
    assert outputs[0, 0] == pytest.approx((shares * values).sum() / shares.sum(), rel=1e-14)


# ---- far outside the range


@pytest.mark.parametrize("kind", ["last", "mean", "attention"])
def test_exploding_adjoints_and_tangents(kind):
    """Gradients and tangents of float32 have the direction of float64's, and its exponent."""
    steps, hidden = 1500, 6
    net = gd.Stack(
        gd.RNN(hidden, hidden, nonlinearity="identity", bias=False),
        gd.Pool(kind, hidden),
        gd.Linear(hidden, 3, bias=False),
    )
    exact = net.init(seed=3, dtype="float64")
    exact["0.weight_hh"][...] = np.roll(np.eye(hidden), 1, axis=0) * 1.5
    exact.flat[...] = exact.flat.astype(np.float32)
    params = gd.Params(net, exact.flat.astype(np.float32))
    # The state is zero throughout, so that only adjoints and tangents grow, by 1.5^1500 = 10^264.
    x = np.zeros((steps, 2, hidden), np.float32)
    d = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    how = {"loss": gd.loss.Given(), "wrt": ("params", "x", "state")}
    got = gd.value_and_grad(net, params, x, d, **how)
    want = gd.value_and_grad(net, exact, x.astype(float), d.astype(float), **how)

    def unit(array):
        return array / np.abs(array).max()

    first = np.ldexp(got.dx[0].astype(float), got.dx_exponent[0])
    wanted = np.ldexp(want.dx[0], want.dx_exponent[0])
    assert np.log10(np.abs(wanted).max()) > 200
    assert error(unit(first), unit(wanted)) < 2e-4
    assert np.log10(np.abs(first).max()) == pytest.approx(np.log10(np.abs(wanted).max()), abs=1e-3)
    v = np.zeros((1, *x.shape), np.float32)
    v[0, 0] = 1.0
    ahead = jacobian.jvp(net, params, x, dx=v)
    other = jacobian.jvp(net, exact, x.astype(float), dx=v.astype(float))
    mine = np.ldexp(ahead.d_outputs.astype(float), ahead.d_outputs_exponent)
    theirs = np.ldexp(other.d_outputs, other.d_outputs_exponent)
    assert ahead.d_outputs_exponent[0] > 126
    assert error(unit(mine), unit(theirs)) < 2e-4
    assert np.abs(mine).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)


def test_the_last_step_is_that_of_a_loss_of_the_last_step():
    """The gradient is the same to the last bit as without a Pool, also far outside the range."""
    layers = [gd.RNN(4, 9, nonlinearity="identity", bias=False), gd.Linear(9, 3)]
    plain, pooled = gd.Stack(*layers), gd.Stack(layers[0], gd.Pool("last", 9), layers[1])
    params = plain.init(seed=1, gain=1.02)
    other = gd.Params(pooled, params.flat.copy())
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 3, 4), np.float32)
    x[:5] = 1e-30 * rng.standard_normal((5, 3, 4))
    x[0] = 0
    y = rng.standard_normal((3, 3)).astype(np.float32)
    lengths = np.array([4500, 1, 3000])
    one = gd.value_and_grad(
        plain, params, x, y, loss=gd.loss.MeanSquaredError(step="last"), lengths=lengths,
        wrt=("params", "x"),
    )  # fmt: skip
    two = gd.value_and_grad(pooled, other, x, y, loss="mse", lengths=lengths, wrt=("params", "x"))
    assert one.loss == two.loss
    assert one.grads.exponent == two.grads.exponent
    np.testing.assert_allclose(one.grads.flat, two.grads.flat, rtol=1e-5)
    np.testing.assert_array_equal(one.dx_exponent, two.dx_exponent)
    np.testing.assert_allclose(one.dx, two.dx, rtol=1e-5)


# ---- long sequences


def long_case(kind, steps):
    """A net without memory, whose rows are its inputs."""
    net = gd.Stack(gd.RNN(2, 2, nonlinearity="identity", bias=False), gd.Pool(kind, 2))
    params = net.init(seed=0)
    params["0.weight_ih"][...], params["0.weight_hh"][...] = np.eye(2), 0.0
    x = np.random.default_rng(1).standard_normal((steps, 1, 2)).astype(np.float32)
    return net, params, x


def test_a_mean_of_a_million_steps():
    """A sum of float32 would have lost three digits here."""
    net, params, x = long_case("mean", 1_000_000)
    x += 3.0
    exact = x[:, 0].astype(float).mean(axis=0)
    outputs, _ = gd.apply(net, params, x)
    np.testing.assert_allclose(outputs[0], exact, rtol=6e-8)
    d = np.ones((1, 2), np.float32)
    found = gd.value_and_grad(net, params, x, d, loss=gd.loss.Given())
    # By weight_ih it is the mean of the inputs, for either unit.
    np.testing.assert_allclose(found.grads["0.weight_ih"], [exact, exact], rtol=1e-5)


def test_attention_over_many_steps():
    net, params, x = long_case("attention", 200_000)
    params["1.weight"][...] = [[2.0, -1.0]]
    rows = x[:, 0].astype(float)
    scores = rows @ [2.0, -1.0]
    shares = np.exp(scores - scores.max())
    outputs, _ = gd.apply(net, params, x)
    np.testing.assert_allclose(outputs[0], shares @ rows / shares.sum(), rtol=1e-6)


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_no_array_over_time(kind, both):
    """T = 100,000, B = 8, 64 units: all rows would take 205 MB, and 205 more for their gradient."""
    width = 128 if both else 64
    net = gd.Stack(gd.GRU(8, 64, bidirectional=both), gd.Pool(kind, width), gd.Linear(width, 5))

    def least(steps):
        with pytest.raises(gd.MemoryBudgetError) as refused:
            gd.plan(net, steps, 8, memory=1)
        return refused.value.smallest

    if both and kind == "attention":  # scores need both directions of a step
        assert least(100_000) > 2 * 100_000 * 8 * 128 * 4
        return
    assert least(100_000) < 6e6
    assert least(400_000) < 1.6 * least(100_000)


# ---- what is refused


def described(*transforms, layers=1, bidirectional=False):
    return _core.Net(
        dtype="float32",
        embedding_rows=0,
        embedding_dim=0,
        layers=[
            _core.Layer(cell="gru", input_size=4, hidden_size=4, place=i) for i in range(layers)
        ],
        head_outputs=0,
        head_bias=False,
        transforms=list(transforms),
    )


def pool(before, function="mean"):
    return _core.Transform(kind="pool", before=before, place=9, function=function)


@pytest.mark.parametrize(
    ("transforms", "layers", "message"),
    [
        ([pool(1)], 2, r"behind the last recurrent layer"),
        ([pool(1), pool(1)], 1, r"neither another pool nor a window"),
        (
            [
                _core.Transform(kind="residual_begin", before=1, place=5),
                pool(1),
                _core.Transform(kind="residual_end", before=1, place=5),
            ],
            1,
            r"cannot lie in a residual run",
        ),
    ],
)
def test_the_core_refuses_other_places(transforms, layers, message):
    with pytest.raises(gd.ArgumentError, match=message):
        described(*transforms, layers=layers)


def test_the_core_knows_its_pools():
    with pytest.raises(gd.ArgumentError, match="pool must be one of last, mean, max, attention"):
        pool(1, "median")


def test_the_core_refuses_resets():
    net = described(pool(1))
    call = _core.Call(net, steps=5, batch=1)
    call.expect(["params", "x", "reset", "outputs"], 0)
    call.plan(
        gd.plan(
            gd.Stack(gd.GRU(4, 4), gd.Pool("mean", 4)), 5, 1, wrt=(), loss="mse"
        ).schedule.ops(),
        segment_steps=5,
        slots=0,
    )
    with pytest.raises(gd.ArgumentError, match=r"takes no resets: a sequence that is cut"):
        call.bytes()
