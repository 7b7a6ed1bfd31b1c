"""gradcore.jax.rnn against lax.scan in float64: values, derivatives, and JAX's transformations."""

import numpy as np
import pytest

import gradcore as gd
from gradcore.errors import ArgumentError, CompileError, DTypeError, ShapeError

jax = pytest.importorskip("jax", reason="tests gradcore.jax: install gradcore[jax]")
gj = pytest.importorskip("gradcore.jax", reason="needs the module jax.ffi")

from jax import numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

from gradcore.jax import _primitives  # noqa: E402

T, B, I, H = 150, 3, 4, 5
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@pytest.fixture(autouse=True)
def _doubles():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    _primitives.kept_tapes(drop=True)
    jax.config.update("jax_enable_x64", before)


def drawn(shape, seed=0, scale=0.4):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape))


def params_of(cell, layers=1, both=False):
    made = {}
    for place in range(layers):
        width = I if place == 0 else H * (1 + both)
        for end in ("", "_reverse")[: 1 + both]:
            rows = GATES[cell] * H
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, H)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                made[f"{name}_l{place}{end}"] = drawn(shape, len(made))
    return made


def step_of(cell, p, end):
    def step(state, row):
        x, active = row
        h = state[0]
        from_x = x @ p[f"weight_ih_{end}"].T + p[f"bias_ih_{end}"]
        from_h = h @ p[f"weight_hh_{end}"].T + p[f"bias_hh_{end}"]
        if cell == "rnn":
            new = (jnp.tanh(from_x + from_h),)
        elif cell == "gru":
            xr, xz, xn = jnp.split(from_x, 3, -1)
            hr, hz, hn = jnp.split(from_h, 3, -1)
            z = jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
            new = ((1 - z) * n + z * h,)
        else:
            i, f, g, o = jnp.split(from_x + from_h, 4, -1)
            c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            new = (jax.nn.sigmoid(o) * jnp.tanh(c), c)
        keep = active[:, None]
        new = tuple(jnp.where(keep, a, b) for a, b in zip(new, state, strict=True))
        return new, jnp.where(keep, new[0], 0.0)

    return step


def scanned(cell, p, x, state=None, lengths=None, layers=1, both=False):
    """The same by lax.scan."""
    states = []
    for place in range(layers):
        outputs = []
        for d, end in enumerate(("", "_reverse")[: 1 + both]):
            row = place * (1 + both) + d
            zero = jnp.zeros((x.shape[1], H), x.dtype)
            kinds = 2 if cell == "lstm" else 1
            start = (zero,) * kinds if state is None else tuple(s[row] for s in state)
            active = jnp.arange(len(x))[:, None] < (len(x) if lengths is None else lengths)
            active = jnp.broadcast_to(active, x.shape[:2])
            step = step_of(cell, p, f"l{place}{end}")
            last, out = jax.lax.scan(step, start, (x, active), reverse=bool(d))
            states.append(last)
            outputs.append(out)
        x = jnp.concatenate(outputs, -1)
    return x, tuple(jnp.stack(kind) for kind in zip(*states, strict=True))


def loss_of(run):
    """A loss of outputs and last state."""

    def loss(p, x, *rest):
        outputs, state = run(p, x, *rest)
        total = (outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)).sum()
        return total + sum((s**3).sum() for s in jax.tree.leaves(state))

    return loss


def agree(found, expected, rtol=1e-9):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_values_and_gradients_are_those_of_scan(cell, layers, both):
    p, x = params_of(cell, layers, both), drawn((T, B, I), 50)
    start = [drawn((layers * (1 + both), B, H), 60 + k) for k in range(2 if cell == "lstm" else 1)]
    state = start[0] if len(start) == 1 else tuple(start)
    lengths = jnp.array([T, 40, 7])

    def ours(p, x, s):
        return gj.rnn(cell, p, x, initial_state=s, lengths=lengths)

    def theirs(p, x, s):
        return scanned(cell, p, x, jax.tree.leaves(s), lengths, layers, both)

    outputs, end = ours(p, x, state)
    expected, last = theirs(p, x, state)
    agree((outputs, end), (expected, last))
    found = jax.jit(jax.grad(loss_of(ours), (0, 1, 2)))(p, x, state)
    agree(found, jax.grad(loss_of(theirs), (0, 1, 2))(p, x, state))
    assert _primitives.kept_tapes() == 0


def both_losses(cell="lstm"):
    ours = loss_of(lambda p, x: gj.rnn(cell, p, x))
    theirs = loss_of(lambda p, x: scanned(cell, p, x))
    return ours, theirs, params_of(cell), drawn((T, B, I), 50)


@pytest.mark.parametrize("cell", GATES)
def test_jvp_and_second_derivatives(cell):
    ours, theirs, p, x = both_losses(cell)
    v = jax.tree.map(lambda a: drawn(a.shape, 99), (p, x))

    def dot(a, b):
        return sum((x * y).sum() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    for derivative in (
        lambda f: jax.jvp(f, (p, x), v),
        lambda f: jax.jvp(jax.grad(f, (0, 1)), (p, x), v),
        lambda f: jax.grad(lambda *at: dot(jax.grad(f, (0, 1))(*at), v), (0, 1))(p, x),
        lambda f: jax.grad(lambda *at: jax.jvp(f, at, v)[1], (0, 1))(p, x),
    ):
        agree(derivative(ours), derivative(theirs))


def test_check_grads():
    p, x = params_of("gru"), drawn((20, B, I), 50)
    check_grads(lambda p, x: gj.rnn("gru", p, x), (p, x), order=1, modes=["fwd", "rev"], rtol=1e-5)
    check_grads(lambda p, x: gj.rnn("gru", p, x), (p, x), order=2, modes=["rev"], rtol=1e-4)


def test_a_derivative_too_many_is_refused():
    ours, _, p, x = both_losses()
    once = lambda p: jax.jvp(lambda q: ours(q, x), (p,), (p,))[1]  # noqa: E731
    with pytest.raises(ArgumentError, match="at most once of these in forward"):
        jax.jvp(once, (p,), (p,))


@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_jacobians(jacobian):
    p, x = params_of("gru"), drawn((6, 2, I), 50)
    found = jacobian(lambda p, x: gj.rnn("gru", p, x)[0], (0, 1))(p, x)
    agree(found, jacobian(lambda p, x: scanned("gru", p, x)[0], (0, 1))(p, x))


@pytest.mark.parametrize("axes", [(None, 0), (None, 1), (0, None), (0, 0)])
def test_vmap(axes):
    ours, theirs, p, x = both_losses()
    n = 4
    if axes[0] is not None:
        p = jax.tree.map(lambda a: jnp.stack([a * (1 + 0.1 * k) for k in range(n)]), p)
    if axes[1] is not None:
        x = jnp.stack([x * (1 + 0.1 * k) for k in range(n)], axes[1])
    for derivative in (lambda f: f, lambda f: jax.grad(f, (0, 1)), lambda f: jax.grad(f, 1)):
        agree(*(jax.vmap(derivative(f), axes)(p, x) for f in (ours, theirs)))
    outside = [jax.grad(lambda p: jax.vmap(f, axes)(p, x).sum())(p) for f in (ours, theirs)]  # noqa: B023
    agree(*outside)


def test_vmap_of_states_and_lengths():
    p, x = params_of("lstm"), drawn((5, T, I), 50)
    state = (drawn((5, 1, H), 51), drawn((5, 1, H), 52))
    lengths = jnp.array([T, 1, 20, 3, 77])
    outputs, end = jax.vmap(lambda x, s, n: gj.rnn("lstm", p, x, initial_state=s, lengths=n))(
        x, state, lengths
    )
    state = tuple(jnp.moveaxis(s, 0, 1) for s in state)
    expected, last = scanned("lstm", p, jnp.moveaxis(x, 0, 1), state, lengths)
    agree(outputs, jnp.moveaxis(expected, 1, 0))
    agree(end, tuple(jnp.moveaxis(s, 1, 0) for s in last))


def test_scan_outside_and_checkpoint():
    _, _, p, x = both_losses()
    windows = x.reshape(5, T // 5, B, I)

    def total(run, remat):
        def window(state, x):
            outputs, end = run(x, state)
            return tuple(end), (outputs**2).sum()

        zero = (jnp.zeros((1, B, H)),) * 2
        return jax.lax.scan(jax.checkpoint(window) if remat else window, zero, windows)[1].sum()

    expected = jax.grad(lambda p: total(lambda x, s: scanned("lstm", p, x, s), False))(p)
    for remat in (False, True):
        found = jax.grad(
            lambda p: total(lambda x, s: gj.rnn("lstm", p, x, initial_state=s), remat)  # noqa: B023
        )(p)
        agree(found, expected)
    assert _primitives.kept_tapes() == 0


def test_a_backward_call_without_its_tape_runs_forward_again():
    ours, theirs, p, x = both_losses()
    _, back = jax.vjp(ours, p, x)
    assert _primitives.kept_tapes() == 1
    expected = jax.grad(theirs, (0, 1))(p, x)
    agree(back(1.0), expected)
    assert _primitives.kept_tapes() == 0
    agree(back(1.0), expected)


def test_budgets_and_the_gradient_have_the_same_bits():
    _, _, p, x = both_losses()
    x = jnp.concatenate([x] * 20)
    grads = [
        jax.jit(jax.grad(loss_of(lambda p, x: gj.rnn("lstm", p, x, memory=memory))))(p, x)  # noqa: B023
        for memory in ("full", "600kB")
    ]
    assert all(map(np.array_equal, *map(jax.tree.leaves, grads)))


@pytest.mark.filterwarnings("ignore:Some donated buffers")  # outputs have another width
def test_resets_and_donated_arguments():
    p, x = params_of("gru"), drawn((T, B, I), 50)
    reset = np.zeros((T, B), bool)
    reset[40] = True
    run = jax.jit(lambda p, x: gj.rnn("gru", p, x, reset=reset)[0], donate_argnums=1)
    halves = [scanned("gru", p, part)[0] for part in (x[:40], x[40:])]
    agree(run(p, x + 0), jnp.concatenate(halves))


def test_options_of_a_layer():
    layer = gd.RNN(I, H, nonlinearity="relu", skip=gd.Skip(3), bias=False)
    net = gd.Stack(layer)
    own = net.init(seed=0, dtype="float64")
    x = drawn((T, B, I), 50)
    p = {f"{name.partition('.')[2]}_l0": jnp.asarray(own[name]) for name in own}
    expected, _ = gd.apply(net, own, np.asarray(x))
    outputs, h = gj.rnn(layer, p, x)
    agree(outputs, expected)
    assert h.shape == (1, 3, B, H)


def test_float32_without_x64():
    jax.config.update("jax_enable_x64", False)
    p, x = params_of("lstm"), drawn((T, B, I), 50)
    assert x.dtype == np.float32
    ours, theirs = (
        jax.grad(loss_of(f))
        for f in (lambda p, x: gj.rnn("lstm", p, x), lambda p, x: scanned("lstm", p, x))
    )
    agree(ours(p, x), theirs(p, x), 1e-3)


def test_wrong_inputs():
    p, x = params_of("lstm"), drawn((T, B, I), 50)
    for error, told, call in (
        (ArgumentError, "cell must be", lambda: gj.rnn("lstn", p, x)),
        (DTypeError, "params must be a dict", lambda: gj.rnn("lstm", [1], x)),
        (ArgumentError, "Missing: bias_hh_l0", lambda: gj.rnn(
            "lstm", {k: v for k, v in p.items() if k != "bias_hh_l0"}, x)),
        (ArgumentError, "weight_hh_l0", lambda: gj.rnn("lstm", {}, x)),
        (ShapeError, r"weight_ih_l0 must have shape", lambda: gj.rnn("gru", p, x)),
        (ShapeError, "x must have shape", lambda: gj.rnn("lstm", p, x[..., :2])),
        (DTypeError, "dtype of params", lambda: gj.rnn("lstm", p, x.astype(np.float32))),
        (DTypeError, "float32 or float64", lambda: gj.rnn(
            "lstm", jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x)),
        (ShapeError, "must be a tuple", lambda: gj.rnn("lstm", p, x, initial_state=x)),
        (DTypeError, "lengths must be integers", lambda: gj.rnn("lstm", p, x, lengths=x[0, :, 0])),
        (ShapeError, "one flag", lambda: gj.rnn("lstm", p, x, reset=np.zeros(3, bool))),
    ):  # fmt: skip
        with pytest.raises(error, match=told):
            call()


def test_values_that_are_not_finite_and_wrong_lengths_name_the_place():
    p, x = params_of("lstm"), drawn((T, B, I), 50)
    with pytest.raises(Exception, match=r"not finite: recurrent layer 0, step 9, sequence 1"):
        jax.block_until_ready(gj.rnn("lstm", p, x.at[9, 1].set(jnp.nan)))
    with pytest.raises(Exception, match="length"):
        jax.block_until_ready(gj.rnn("lstm", p, x, lengths=jnp.array([T + 1, 1, 1])))


def test_a_gradient_beyond_the_dtype_is_infinite():
    p = {"weight_ih_l0": jnp.ones((1, 1)), "weight_hh_l0": jnp.full((1, 1), 2.0)}
    layer = gd.RNN(1, 1, nonlinearity="identity", bias=False)
    x = jnp.zeros((1500, 1, 1))
    grads = jax.grad(lambda x: gj.rnn(layer, p, x)[0][-1].sum())(x)
    assert np.isinf(grads[0])
    assert grads[-1] == 1
    assert grads[-11] == 1024


def test_without_a_compiler(tmp_path, monkeypatch):
    from gradcore.jax import _library

    monkeypatch.setattr(_library, "_names", {})
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match="cannot be found"):
        _library.target("forward")
