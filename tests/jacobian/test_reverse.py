"""Cotangents of parameters, chained ranges of steps, adjoints step by step, gradients by
sequence.
"""

import numpy as np
import pytest

import gradcore as gd
from gradcore import jacobian

T, B, K = 150, 3, 4
LOG2 = np.log10(2.0)


def net_of(name):
    return {
        "lstm": gd.Stack(gd.LSTM(3, 17), gd.LayerNorm(17), gd.GRU(17, 8), gd.Linear(8, 2)),
        "skips": gd.Stack(
            gd.RNN(3, 9, skip=gd.Skip(5, kind="mix", learned=True)),
            gd.LSTM(9, 9, residual=True, skip=gd.Skip(140, kind="add", value=0.4)),
        ),
        "dense": gd.Stack(
            gd.Dense(3, 5, "gelu"),
            gd.Residual(gd.LSTM(5, 9), gd.Dense(9, 5, "silu"), gd.Residual(gd.Dense(5, 5, "tanh"))),
            gd.RNN(5, 6),
            gd.Residual(gd.Dense(6, 6, "softplus")),
            gd.Dense(6, 2, "sigmoid"),
        ),
        "both ways": gd.Stack(gd.GRU(3, 7, bidirectional=True), gd.LSTM(14, 5), gd.Linear(5, 2)),
    }[name]


def setting(name, dtype="float64"):
    net = net_of(name)
    params = net.init(seed=3, dtype=dtype)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((T, B, 3)).astype(dtype)
    w = rng.standard_normal((K, T, B, net.output_size)).astype(dtype)
    return net, params, x, w, rng


def picked(states, k):
    def one(state):
        return None if state is None else state[k]

    return [
        gd.LayerState(s.h[k], one(s.c), one(s.skip), s.reverse and picked([s.reverse], k)[0])
        for s in states
    ]


@pytest.mark.parametrize("name", ["lstm", "skips", "dense", "both ways"])
@pytest.mark.parametrize("masks", [False, True])
def test_cotangents_are_gradients_of_the_weighted_output(name, masks):
    net, params, x, w, rng = setting(name)
    given = {}
    if masks:
        given = {"lengths": np.array([T, 97, 0]), "reset": rng.random((T, B)) < 0.03}
    got = jacobian.vjp(net, params, x, d_outputs=w, **given)
    for k in range(K):
        want = gd.value_and_grad(
            net,
            params,
            x,
            loss=lambda y, t0, t1, k=k: (0.0, w[k, t0:t1]),
            wrt=("params", "x", "state"),
            **given,
        )
        np.testing.assert_array_equal(got.grads[k].flat, want.grads.flat)
        np.testing.assert_array_equal(got.dx[k], want.dx)
        for one, other in zip(picked(got.dstate, k), want.dstate, strict=True):
            np.testing.assert_array_equal(one.h, other.h)


@pytest.mark.parametrize("name", ["lstm", "skips", "dense"])
def test_all_directions_at_once_are_those_one_by_one(name):
    net, params, x, w, _ = setting(name)
    one_by_one = jacobian.vjp(net, params, x, d_outputs=w)
    together = jacobian.vjp(net, params, x, d_outputs=w, wrt=("x", "state"))
    assert together.grads is None
    np.testing.assert_allclose(together.dx, one_by_one.dx, atol=1e-13)
    for one, other in zip(together.dstate, one_by_one.dstate, strict=True):
        np.testing.assert_allclose(one.h, other.h, atol=1e-13)


@pytest.mark.parametrize("name", ["lstm", "skips", "dense"])
@pytest.mark.parametrize("wrt", [("params", "x", "state"), ("x", "state")])
@pytest.mark.parametrize("lengths", [None, np.array([T, 97, 60])])
def test_ranges_chain(name, wrt, lengths):
    net, params, x, w, rng = setting(name)
    reset = rng.random((T, B)) < 0.02
    masks = {"lengths": lengths, "reset": reset}
    whole = jacobian.vjp(net, params, x, d_outputs=w, wrt=wrt, **masks)
    cut = 61
    first = {"lengths": None, "reset": reset[:cut]}
    second = {"lengths": None, "reset": reset[cut:]}
    if lengths is not None:
        first["lengths"] = np.clip(lengths, 0, cut)
        second["lengths"] = np.clip(lengths - cut, 0, T - cut)
    _, state = gd.apply(net, params, x[:cut], **first)
    late = jacobian.vjp(net, params, x[cut:], d_outputs=w[:, cut:], wrt=wrt, state=state, **second)
    early = jacobian.vjp(
        net, params, x[:cut], d_outputs=w[:, :cut], dstate_out=late.dstate, wrt=wrt, **first
    )
    np.testing.assert_allclose(early.dx, whole.dx[:, :cut], atol=1e-13)
    np.testing.assert_allclose(late.dx, whole.dx[:, cut:], atol=1e-13)
    for one, other in zip(early.dstate, whole.dstate, strict=True):
        np.testing.assert_allclose(one.h, other.h, atol=1e-13)
        if other.skip is not None:
            np.testing.assert_allclose(one.skip, other.skip, atol=1e-13)
    for k in range(K if whole.grads else 0):
        np.testing.assert_allclose(
            early.grads[k].flat + late.grads[k].flat, whole.grads[k].flat, atol=1e-11
        )


@pytest.mark.parametrize("name", ["lstm", "skips", "dense"])
def test_products_with_tangents_and_cotangents_agree(name):
    """Checks <J v, w> = <v, J' w>."""
    net, params, x, w, rng = setting(name)
    dx = rng.standard_normal((K, *x.shape))
    dparams = rng.standard_normal((K, net.n_parameters))
    forward = jacobian.jvp(net, params, x, dx=dx, dparams=dparams)
    back = jacobian.vjp(net, params, x, d_outputs=w)
    for k in range(K):
        one = np.vdot(forward.d_outputs[k], w[k])
        other = np.vdot(dx[k], back.dx[k]) + np.vdot(dparams[k], back.grads[k].flat)
        assert abs(one - other) <= 1e-11 * np.linalg.norm(forward.d_outputs[k]) * np.linalg.norm(
            w[k]
        )


@pytest.mark.parametrize(("factor", "steps"), [(1.25, 6000), (0.8, 6000)])
def test_scaled_states_go_on_where_float32_ends(factor, steps):
    net = gd.Stack(gd.RNN(1, 8, nonlinearity="identity", bias=False))
    params = net.init(seed=0)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))
    params["0.weight_hh"][...] = factor * q
    x = np.zeros((steps, 1, 1), np.float32)
    v = gd.LayerState(np.ones((2, 1, 8), np.float32))
    want = steps * np.log10(factor) + 0.5 * np.log10(8)
    forward = jacobian.jvp(net, params, x, dstate=[v])
    norm = np.log10(np.linalg.norm(forward.dstate[0].h[1])) + forward.dstate_exponent[0] * LOG2
    assert norm == pytest.approx(want, abs=1e-3)
    last = (
        np.log10(np.linalg.norm(forward.d_outputs[0, -1])) + forward.d_outputs_exponent[-1] * LOG2
    )
    assert last == pytest.approx(want, abs=1e-3)
    for wrt in (("state",), ("params", "state")):
        back = jacobian.vjp(net, params, x, dstate_out=[v], wrt=wrt)
        exponent = np.ravel(back.dstate_exponent)[0]
        norm = np.log10(np.linalg.norm(back.dstate[0].h[0])) + exponent * LOG2
        assert norm == pytest.approx(want, abs=1e-3)
        again = jacobian.vjp(
            net, params, x, dstate_out=back.dstate, dstate_out_exponent=int(exponent), wrt=wrt
        )
        exponent = np.ravel(again.dstate_exponent)[0]
        norm = np.log10(np.linalg.norm(again.dstate[0].h[0])) + exponent * LOG2
        assert norm == pytest.approx(2 * want - 0.5 * np.log10(8), abs=2e-3)


# ---- adjoints step by step


@pytest.mark.parametrize("name", ["lstm", "skips", "both ways"])
@pytest.mark.parametrize("memory", ["full", "smallest"])
def test_hidden_gradients_are_differences(name, memory):
    """dL/dh_t agrees with differences of a run of the steps after t from a changed state."""
    net, params, x, _, rng = setting(name)
    y = rng.standard_normal((T, B, net.output_size))
    if memory == "smallest":
        with pytest.raises(gd.MemoryBudgetError) as refused:
            jacobian.hidden_gradients(net, params, x, y, loss="mse", layer=0, memory=1)
        memory = refused.value.smallest
    found = jacobian.hidden_gradients(net, params, x, y, loss="mse", layer=0, memory=memory)
    reference = gd.value_and_grad(net, params, x, y, loss="mse")
    assert found.loss == reference.loss
    np.testing.assert_array_equal(found.grads.flat, reference.grads.flat)
    dh = np.ldexp(found.dh, found.exponent[:, None, None])
    norms = np.log10(np.linalg.norm(dh, axis=2))
    np.testing.assert_allclose(found.norm_log10, norms, atol=1e-9)
    if name == "both ways":
        backward = jacobian.hidden_gradients(net, params, x, y, loss="mse", layer=0, reverse=True)
        assert not np.allclose(backward.dh, found.dh)
        return
    for t in (0, 63, T - 2):
        # The gradient of the state at t has the part of dh_t that flows through later steps. The
        # rest flows through the layers above at t, and is known where these are a head or only the
        # loss.
        _, state = gd.apply(net, params, x[: t + 1])
        rest = gd.value_and_grad(
            net,
            params,
            x[t + 1 :],
            y[t + 1 :],
            loss=gd.loss.MeanSquaredError(reduction="sum"),
            state=state,
            wrt=("state",),
        )
        through_time = rest.dstate[0].h / (T * B * net.output_size)
        direction = rng.standard_normal((B, state[0].h.shape[1]))
        up = 0.0
        for sign in (1, -1):
            # The layers above run at step t with a changed output of layer 0.
            up += sign * _loss_of_step(net, params, x, y, t, sign * 1e-6 * direction) / 2e-6
        want = np.vdot(through_time, direction) + up
        assert np.vdot(dh[t], direction) == pytest.approx(want, rel=2e-5, abs=1e-9)


def _loss_of_step(net, params, x, y, t, move):
    """The loss of step t, and through the layers above of the steps after it, as layer 0's h_t
    changes.

    The layers above run on layer 0's outputs as a net of their own.
    """
    lower = gd.Stack(net.layers[0])
    upper = gd.Stack(*net.layers[1:])
    below = lower.init(seed=0, dtype="float64")
    for name in below:
        below[name][...] = params[name]
    above = upper.init(seed=0, dtype="float64")
    for name in above:
        place, rest = name.split(".", 1)
        above[name][...] = params[f"{int(place) + 1}.{rest}"]
    h, _ = gd.apply(lower, below, x)
    h = h.copy()
    h[t] += move
    outputs, _ = gd.apply(upper, above, h)
    return float(np.mean((outputs - y) ** 2))


def test_hidden_gradients_keep_their_scale():
    net = gd.Stack(gd.RNN(1, 8, nonlinearity="identity", bias=False))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 0.8 * np.eye(8)
    x = np.zeros((4000, 1, 1), np.float32)
    y = np.ones((1, 8), np.float32)
    found = jacobian.hidden_gradients(
        net, params, x, y, loss=gd.loss.MeanSquaredError(step="last"), norms_only=True
    )
    assert found.dh is None
    steps = np.arange(4000)
    want = np.log10(2 / 8 * np.sqrt(8)) + (3999 - steps) * np.log10(0.8)
    np.testing.assert_allclose(found.norm_log10[:, 0], want, atol=1e-3)


# ---- by sequence


@pytest.mark.parametrize("last", [False, True])
def test_gradients_by_sequence_sum_to_the_batch(last):
    net, params, x, _, rng = setting("lstm")
    loss = gd.loss.MeanSquaredError(reduction="sum", step="last" if last else "all")
    y = rng.standard_normal((B, 2) if last else (T, B, 2))
    lengths = np.array([T, 97, 60])
    single = jacobian.per_sample_gradients(net, params, x, y, loss=loss, lengths=lengths)
    whole = gd.value_and_grad(net, params, x, y, loss=loss, lengths=lengths)
    assert len(single) == B
    np.testing.assert_allclose(
        sum(g.flat for g in single), whole.grads.flat, rtol=1e-10, atol=1e-12
    )


# ---- wrong input


def test_wrong_directions_are_refused():
    net, params, x, w, _ = setting("lstm")
    with pytest.raises(gd.ArgumentError, match="at least one of d_outputs, dstate_out must be"):
        jacobian.vjp(net, params, x)
    with pytest.raises(
        gd.ShapeError, match=r"d_outputs must have shape \(K, 150, 3, 2\).*\[None\]"
    ):
        jacobian.vjp(net, params, x, d_outputs=w[0])
    with pytest.raises(gd.DTypeError, match="d_outputs must have dtype float64"):
        jacobian.vjp(net, params, x, d_outputs=w.astype(np.float32))
    with pytest.raises(gd.ShapeError, match=r"dstate_out\[.*must have shape \(3, 3, 17\)"):
        jacobian.vjp(net, params, x, dstate_out=gd.zero_state(net, B, "float64"))
    with pytest.raises(gd.ArgumentError, match=r"layer must be in -2\.\.1"):
        jacobian.hidden_gradients(net, params, x, w[0], loss="mse", layer=2)
    with pytest.raises(gd.ArgumentError, match="reverse=True needs a bidirectional layer"):
        jacobian.hidden_gradients(net, params, x, w[0], loss="mse", reverse=True)


def test_a_budget_that_cannot_be_met_names_the_smallest():
    net, params, x, w, _ = setting("lstm")
    with pytest.raises(gd.MemoryBudgetError) as refused:
        jacobian.vjp(net, params, x, d_outputs=w, wrt=("x",), memory=1000)
    smallest = refused.value.smallest
    least = jacobian.vjp(net, params, x, d_outputs=w, wrt=("x",), memory=smallest)
    most = jacobian.vjp(net, params, x, d_outputs=w, wrt=("x",), memory="full")
    np.testing.assert_array_equal(least.dx, most.dx)
