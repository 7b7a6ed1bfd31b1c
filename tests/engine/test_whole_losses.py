"""Losses of the whole sequence: functions of NumPy, PyTorch and JAX, and the error-to-signal ratio,
against the reference, losses of steps, and differences; the same bits for all budgets and threads.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core
from nets import stack
from overriding import override
from problem import core_arguments, error, random_problem
from reference import signals, two_ways

BLOCK = _core.block_steps()
NET = stack("lstm", 5, 9, layers=2, classes=3)


def problem_of(steps=2 * BLOCK + 9, batch=3, net=NET, **options):
    options = {"lengths": True, "reset": True, "state": True} | options
    return random_problem(net, gd.loss.MeanSquaredError(), steps, batch, seed=1, **options)


def targets(problem, dtype):
    """y without the NaN that stands where a sequence has ended."""
    return np.nan_to_num(problem.y).astype(dtype)


def squares(outputs, y, lengths):
    """Half the squares of the running sum of errors: every step depends on all before it."""
    e = np.cumsum(outputs.astype(float) - y, axis=0)
    if lengths is not None:
        e[np.arange(len(e))[:, None] >= lengths] = 0.0
    slopes = np.cumsum(e[::-1], axis=0)[::-1]
    return float((e**2).sum() / 2 / e.size), (slopes / e.size).astype(outputs.dtype)


def in_torch(outputs, y, lengths):
    import torch

    e = (outputs - y).cumsum(0)
    if lengths is not None:
        e = e * (torch.arange(len(e))[:, None] < lengths)[..., None]
    return (e**2).sum() / 2 / e.numel()


def in_jax(outputs, y, lengths):
    import jax.numpy as jnp

    e = jnp.cumsum(outputs - y, axis=0)
    if lengths is not None:
        e = e * (jnp.arange(len(e))[:, None] < lengths)[..., None]
    return (e**2).sum() / 2 / e.size


def of_reference(problem, function):
    """(value, gradients by name, dx) of a function (outputs, y, lengths) -> (value, d_outputs)."""
    p = problem
    trace = two_ways.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    value, slopes = function(trace.outputs, np.nan_to_num(p.y), p.lengths)
    found = two_ways.backward(p.net, p.params, trace, slopes)
    return value, found.params, found.x


def solve(problem, loss, dtype="float64", **how):
    arguments, keywords = core_arguments(problem, dtype)
    with override(exact_threads=True):
        return gd.value_and_grad(
            *arguments, targets(problem, dtype), loss=loss, wrt=("params", "x"), **keywords, **how
        )


def assert_agree(found, want, tolerance):
    value, params, x = want
    assert found.loss == pytest.approx(value, rel=tolerance)
    for name, array in params.items():
        assert error(found.grads[name].astype(float), array, 1e-2) <= tolerance, name
    assert error(np.ldexp(found.dx.astype(float), found.dx_exponent[:, None, None]), x) <= tolerance


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ragged", [False, True])
def test_functions(framework, dtype, ragged):
    if framework != "numpy":
        pytest.importorskip(framework, reason="calls a function of this framework")
    if framework == "jax":
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
    problem = problem_of(lengths=ragged)
    function = {"numpy": squares, "torch": in_torch, "jax": in_jax}[framework]
    loss = gd.loss.WholeSequence(function, framework=framework)
    tolerance = tolerances.DOUBLE if dtype == "float64" else 4 * tolerances.SINGLE
    found = solve(problem, loss, dtype)
    assert_agree(found, of_reference(problem, squares), tolerance)
    assert found.loss_weight == 3.0
    assert found.arena_bytes <= found.plan.bytes
    arguments, keywords = core_arguments(problem, dtype)
    assert gd.value(*arguments, targets(problem, dtype), loss=loss, **keywords) == found.loss


ERRORS = [
    gd.loss.ErrorToSignal(),
    gd.loss.ErrorToSignal(reduction="sum", dc=False),
    gd.loss.ErrorToSignal(pre_emphasis=0.0, eps=0.1),
]


@pytest.mark.parametrize("loss", ERRORS, ids=["default", "sum", "no filter"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("block", [4096, 7])
def test_error_to_signal(loss, dtype, ragged, block, monkeypatch):
    monkeypatch.setattr("gradcore._engine.error_to_signal.BLOCK_STEPS", block)
    problem = problem_of(lengths=ragged)
    want = of_reference(problem, lambda z, y, n: signals.error_to_signal(loss, z, y, n))
    found = solve(problem, loss, dtype)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    assert_agree(found, want, tolerance)
    assert found.loss_weight == (2.0 if ragged else 3.0)


@pytest.mark.parametrize("loss", ERRORS, ids=["default", "sum", "no filter"])
def test_slopes_of_the_reference(loss):
    rng = np.random.default_rng(2)
    z, y, along = rng.standard_normal((3, 12, 3, 2))
    lengths = np.array([12, 1, 0])
    _, slopes = signals.error_to_signal(loss, z, y, lengths)
    value, _ = signals.error_to_signal(loss, z + 1e-100j * along, y, lengths)
    assert np.vdot(slopes, along) == pytest.approx(value.imag * 1e100, rel=1e-12)


def test_error_to_signal_by_differences():
    problem = problem_of(40)
    loss = gd.loss.ErrorToSignal()
    (net, params, x), keywords = core_arguments(problem, "float64")
    along = np.random.default_rng(3).standard_normal(params.flat.shape)
    step, f, y = 1e-3 / np.linalg.norm(along), {}, targets(problem, "float64")
    for s in (-2, -1, 1, 2):
        moved = gd.Params(net, params.flat + s * step * along)
        f[s] = gd.value(net, moved, x, y, loss=loss, **keywords)
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
    grads = solve(problem, loss).grads.flat
    size = np.linalg.norm(grads) * np.linalg.norm(along)
    assert abs(slope - grads @ along) <= tolerances.DIFFERENCES * size


@pytest.mark.parametrize("kind", ["function", "error to signal"])
@pytest.mark.parametrize("both", [(), (1,)])
def test_the_same_bits_for_all_budgets_and_threads(kind, both):
    loss = gd.loss.ErrorToSignal() if kind != "function" else gd.loss.WholeSequence(squares)
    net = stack("gru", 5, 17, layers=2, classes=3, bidirectional=both)
    problem = problem_of(5 * BLOCK + 7, net=net)

    def bits(**how):
        r = solve(problem, loss, "float32", **how)
        return r.loss, r.grads.flat.tobytes(), r.dx.tobytes(), r.state[0].h.tobytes()

    with pytest.raises(gd.MemoryBudgetError, match="of the whole sequence needs beside") as refused:
        solve(problem, loss, "float32", memory=1)
    want = bits(memory="full", threads=1)
    for how in ({"threads": 3}, {"memory": refused.value.smallest}):
        assert bits(**how) == want


@pytest.mark.parametrize("loss", [gd.loss.WholeSequence(squares), gd.loss.ErrorToSignal()])
def test_plans_and_memory(loss):
    """A plan counts the outputs, their gradient and the blocks of the loss, whatever T is."""
    for steps in (300, 3000):
        problem = problem_of(steps, lengths=False, reset=False, state=False)
        planned = gd.plan(NET, steps, 3, dtype="float64", loss=loss, wrt=("params", "x"))
        assert solve(problem, loss).plan.bytes == planned.bytes
        squared = gd.plan(NET, steps, 3, dtype="float64", loss="mse", wrt=("params", "x"))
        assert planned.bytes >= squared.bytes + 2 * steps * 3 * 3 * 8 - 10_000
        # gradcore.value holds the outputs, and no gradient of them.
        forward = gd.plan(NET, steps, 3, dtype="float64", loss=loss, wrt=())
        assert forward.bytes < planned.bytes - steps * 3 * 3 * 8


def test_a_function_sees_what_it_was_given():
    problem = problem_of()
    arguments, keywords = core_arguments(problem, "float64")
    outputs, _ = gd.apply(*arguments, **keywords)
    seen = []

    def function(z, y, lengths):
        seen.append((z, y, lengths))
        return 0.0, np.zeros_like(z)

    loss = gd.loss.WholeSequence(function)
    gd.value_and_grad(*arguments, {"any": "thing"}, loss=loss, **keywords)
    (z, y, lengths) = seen[0]
    np.testing.assert_array_equal(z, outputs)
    assert y == {"any": "thing"}
    np.testing.assert_array_equal(lengths, problem.lengths)


class StopError(Exception):
    """Raised by the functions of these tests."""


def test_an_exception_of_a_function_passes_through():
    def function(z, y, lengths):
        raise StopError

    arguments, keywords = core_arguments(problem_of(), "float64")
    for call in (gd.value, gd.value_and_grad):
        with pytest.raises(StopError):
            call(*arguments, loss=gd.loss.WholeSequence(function), **keywords)


@pytest.mark.parametrize(
    ("returned", "framework", "error", "message"),
    [
        (lambda z: z, "numpy", gd.DTypeError, r"must return \(loss, d_outputs\); got ndarray.*tor"),
        (lambda z: (0.0, z[:-1]), "numpy", gd.ShapeError, "d_outputs must have the shape of outpu"),
        (lambda z: (0.0, z.astype("f4")), "numpy", gd.DTypeError, "d_outputs must have dtype floa"),
        (lambda z: (np.inf, z), "numpy", gd.NonFiniteError, "whole sequence returned inf"),
        (lambda z: z, "torch", gd.DTypeError, r"a tensor of one number; got \(265, 3, 3\)"),
        (lambda z: 1.0, "torch", gd.DTypeError, "a tensor of one number; got 1.0"),
        (lambda z: z.detach().sum(), "torch", gd.ArgumentError, "has no gradient"),
        (
            lambda z: z.new_zeros((), requires_grad=True),
            "torch",
            gd.ArgumentError,
            "has no gradient by them",
        ),
        (lambda z: z.sum() * 1j, "torch", gd.DTypeError, "must be a real number"),
        (lambda z: (0.0, None), "numpy", gd.DTypeError, "d_outputs must be"),
        (lambda z: (np.ones(2), z), "numpy", gd.DTypeError, r"as one number; got array"),
        (lambda z: ("much", z), "numpy", gd.DTypeError, "as one number; got 'much'"),
    ],
)
def test_what_a_function_may_return(returned, framework, error, message):
    if framework == "torch":
        pytest.importorskip("torch", reason="calls a function of PyTorch")
    loss = gd.loss.WholeSequence(lambda z, y, n: returned(z), framework=framework)
    with pytest.raises(error, match=message):
        solve(problem_of(), loss)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite(value):
    """The error names the place that was given, not the cell; past the ends nothing is used."""
    problem = problem_of()
    (net, params, x), keywords = core_arguments(problem, "float64")
    past = np.arange(len(x))[:, None] >= problem.lengths
    b = int(problem.lengths.argmax())

    def gradient(z, t0, wrong):
        slopes = np.where(past[t0 : t0 + len(z), :, None], value, z)
        if t0 <= 3 < t0 + len(z) and wrong:
            slopes[3 - t0, b, 2] = value
        return slopes

    def calls(wrong):
        whole = gd.loss.WholeSequence(lambda z, y, n: (1.0, gradient(z, 0, wrong)))
        y = gradient(np.zeros((*x.shape[:2], net.output_size)), 0, wrong)
        yield {"loss": whole}
        yield {"loss": lambda z, t0, t1: (1.0, gradient(z, t0, wrong))}
        yield {"loss": gd.loss.Given(), "y": y}

    for call in calls(wrong=True):
        with pytest.raises(gd.NonFiniteError, match=f"step 3, sequence {b}, output 2") as caught:
            gd.value_and_grad(net, params, x, **call, **keywords)
        assert (caught.value.step, caught.value.sequence) == (3, b)
    for call in calls(wrong=False):
        assert np.isfinite(gd.value_and_grad(net, params, x, **call, **keywords).grads.flat).all()


def test_targets_that_pytorch_cannot_share(recwarn):
    torch = pytest.importorskip("torch", reason="calls a function of PyTorch")
    problem = problem_of()
    y = targets(problem, "float64")
    constant = y.copy()
    constant.flags.writeable = False
    loss = gd.loss.WholeSequence(
        lambda z, y, n: torch.nn.functional.mse_loss(z, y), framework="torch"
    )
    (net, params, x), keywords = core_arguments(problem, "float64")
    values = [
        gd.value(net, params, x, given, loss=loss, **keywords)
        for given in (y, constant, y[::-1].copy()[::-1])
    ]
    assert len(set(values)) == 1
    assert not recwarn.list


def test_jax_without_float64_is_refused():
    jax = pytest.importorskip("jax", reason="calls a function of JAX")
    jax.config.update("jax_enable_x64", False)
    loss = gd.loss.WholeSequence(in_jax, framework="jax")
    with pytest.raises(gd.DTypeError, match=r"has made float32 of outputs that are float64.*x64"):
        solve(problem_of(), loss)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.loss.WholeSequence(3), gd.DTypeError, "must be a function"),
        (
            lambda: gd.loss.WholeSequence(squares, framework="tf"),
            gd.ArgumentError,
            "one of 'numpy'",
        ),
        (
            lambda: gd.loss.WholeSequence(squares, step="last"),
            gd.ArgumentError,
            "must have step 'a",
        ),
        (lambda: gd.loss.ErrorToSignal(step="last"), gd.ArgumentError, "must have step 'all'"),
        (lambda: gd.loss.ErrorToSignal(eps=0.0), gd.ArgumentError, "eps must be > 0"),
        (lambda: gd.loss.ErrorToSignal(dc=1), gd.DTypeError, "dc must be True or False"),
    ],
)
def test_wrong_losses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_losses_of_the_whole_sequence_cannot_do():
    problem = problem_of(lengths=False)
    (net, params, x), _ = core_arguments(problem, "float64")
    y = targets(problem, "float64")
    loss = gd.loss.ErrorToSignal()
    call = (net, params, x, y)
    with pytest.raises(gd.ArgumentError, match="weight must be None for ErrorToSignal"):
        gd.value(*call, loss=loss, weight=np.ones(y.shape[:2]))
    v = np.ones((1, net.n_parameters))
    for function in (gd.jacobian.hvp, gd.jacobian.gauss_newton_product):
        with pytest.raises(gd.ArgumentError, match="the Hessian of ErrorToSignal by the outputs"):
            function(*call, v, loss=loss)
    with pytest.raises(gd.ArgumentError, match="window_shares needs a loss whose windows add up"):
        gd.horizon.window_shares(*call, loss=loss, windows=2)
    optimizer = gd.optim.Adam(params, 1e-3)
    monitor = gd.stability.StabilityMonitor(5)
    with pytest.raises(gd.DTypeError, match="ErrorToSignal is a loss of the whole sequence"):
        gd.Trainer(net, params, optimizer, loss=loss, stability=monitor)
    with pytest.raises(gd.NonFiniteError, match="squares of outputs or targets are beyond float64"):
        gd.value(net, params, x, 1e160 * y, loss=loss)  # pytest makes errors of warnings
    y[7, 1, 2] = np.nan
    with pytest.raises(gd.NonFiniteError, match=r"y\[7, 1, 2\] is nan") as caught:
        gd.value(*call, loss=loss)
    assert (caught.value.step, caught.value.sequence) == (7, 1)


@pytest.mark.parametrize("kind", ["function", "error to signal"])
def test_trainings_and_diagnoses(kind, tmp_path):
    """Batches are averaged by their numbers of sequences; a run resumes to the same bits."""
    loss = gd.loss.ErrorToSignal() if kind != "function" else gd.loss.WholeSequence(squares)
    rng = np.random.default_rng(4)
    xs = [rng.standard_normal((130, 5)).astype("f4") for _ in range(5)]
    ys = [x[:, :3].cumsum(axis=0) / 10 for x in xs]

    def trained(steps, run):
        params = NET.init(seed=0)
        data = gd.data.Sequences(xs, ys, batch_size=2, seed=1)
        held_out = gd.data.Sequences(xs, ys, batch_size=2, shuffle=False)
        trainer = gd.Trainer(NET, params, gd.optim.Adam(params, 1e-2), loss=loss, quiet=True)
        how = {"validation": held_out, "every": 10, "run": tmp_path / run, "watch": 10}
        return params, trainer.fit(data, steps=steps, resume=True, **how)

    trained(8, "stopped")
    params, report = trained(30, "stopped")
    whole, other = trained(30, "whole")
    assert params == whole
    assert report.evaluations[-1] == other.evaluations[-1]
    first, last = report.evaluations[0][1], report.evaluations[-1][1]
    assert last < first
    x, y = np.stack(xs, axis=1), np.stack(ys, axis=1).astype("f4")
    assert last == pytest.approx(gd.value(NET, params, x, y, loss=loss), rel=1e-5)
    found = gd.diagnose(NET, params, x, y, loss=loss)
    assert set(found.measured.left_out) == {"windows", "truncation"}
    alone = gd.jacobian.per_sample_gradients(NET, params, x, y, loss=loss)
    together = gd.value_and_grad(NET, params, x, y, loss=loss).grads.flat
    assert error(np.mean([g.flat for g in alone], axis=0), together) <= tolerances.SINGLE


def test_the_text_of_a_function_is_the_same_in_every_process():
    loss = gd.loss.WholeSequence(squares, framework="numpy")
    assert repr(loss) == "WholeSequence(squares, framework='numpy', reduction='mean')"
    assert "0x" not in repr(replace(loss, function=lambda z, y, n: (0.0, z)))
