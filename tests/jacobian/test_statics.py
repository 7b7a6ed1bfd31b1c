"""Derivatives of nets with static inputs and initial states of their own."""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from gradcore._engine.objective import Objective, objective
from gradcore._engine.prepare import prepare
from gradcore._net import validate
from overriding import override
from problem import error, isa, norm
from reference import losses, statics
from static_nets import LOSS, NETS, S, case_of

BLOCK = _core.block_steps()
ONE_WAY = [name for name in NETS if "both" not in name]


def directions(case, count, seed=1):
    """K directions of the parameters by name, and of static."""
    rng = np.random.default_rng(seed)
    along = [
        {n: rng.standard_normal(a.shape) for n, a in case.params.items()} for _ in range(count)
    ]
    return along, rng.standard_normal((count, *case.static.shape))


def flat(case, along, dtype="float64"):
    made = []
    for direction in along:
        params = gd.Params(case.net, np.empty(case.net.n_parameters, dtype))
        for name, array in direction.items():
            params[name] = array.astype(dtype)
        made.append(params)
    return made


def tangents(case, along, by_static, dtype="float64", **how):
    (net, params, x), keywords = case.core(dtype)
    if net.static_size:
        keywords["dstatic"] = by_static.astype(dtype)
    with override(exact_threads=True):
        return jacobian.jvp(net, params, x, dparams=flat(case, along, dtype), **keywords, **how)


def true_outputs(found):
    return np.ldexp(found.d_outputs.astype(float), found.d_outputs_exponent[:, None, None])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_tangents(name, dtype):
    case = case_of(name)
    along, by_static = directions(case, 2)
    found = tangents(case, along, by_static, dtype)
    runs = statics.forward(case.net, case.params, case.static, case.x, lengths=case.lengths)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    for k in range(2):
        want = statics.tangent(case.net, case.params, case.static, runs, along[k], by_static[k])
        assert error(true_outputs(found)[k], want) <= tolerances.NORM * tolerance


@pytest.mark.parametrize("name", ["all", "states of both directions"])
def test_bits_of_tangents(name):
    case = case_of(name, steps=4 * BLOCK + 5)
    along, by_static = directions(case, 3)
    for level in _core.isa_available():
        with isa(level):
            whole = tangents(case, along, by_static, "float32", threads=1)
            for threads in (2, 3):
                same = tangents(case, along, by_static, "float32", threads=threads)
                np.testing.assert_array_equal(whole.d_outputs, same.d_outputs)


def test_tangents_of_static_alone_of_a_state_that_grows_and_of_one_that_fades():
    """What enters at every step has exponent 0, however small the state's tangents have become."""
    for factor in (4.0, 2.0**-4):
        net = gd.Stack(gd.StaticInput(1, 1), gd.RNN(1, 1, nonlinearity="identity", bias=False))
        params = net.init(dtype="float32")
        params["0.weight"][...] = params["1.weight_ih"][...] = 1.0
        params["1.weight_hh"][...] = factor
        steps = 300
        found = jacobian.jvp(
            net,
            params,
            np.zeros((steps, 1, 1), np.float32),
            static=np.zeros((1, 1), np.float32),
            dstatic=np.ones((1, 1, 1), np.float32),
        )
        last = found.d_outputs[0, -1, 0, 0]
        got = np.log2(abs(float(last))) + int(found.d_outputs_exponent[-1])
        want = 2 * (steps - 1) + np.log2(4 / 3) if factor > 1 else -np.log2(1 - factor)
        assert abs(got - want) < 1e-4


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_dot_product_and_cotangents_together(name, ragged):
    case = case_of(name, ragged=ragged)
    along, by_static = directions(case, 1)
    moved = true_outputs(tangents(case, along, by_static))[0]
    rng = np.random.default_rng(3)
    d_outputs = rng.standard_normal((3, *moved.shape))
    (net, params, x), keywords = case.core()
    wrt = ("params", "static") if net.static_size else ("params",)
    found = jacobian.vjp(net, params, x, d_outputs=d_outputs, wrt=wrt, **keywords)
    for k in range(3):
        left = np.vdot(moved, d_outputs[k])
        grads = found.grads[k]
        right = sum(np.vdot(np.ldexp(grads[n], grads.exponent), a) for n, a in along[0].items())
        if net.static_size:
            scale = int(found.dstatic_exponent[k, 0])
            right += np.vdot(np.ldexp(found.dstatic[k], scale), by_static[0])
        assert abs(left - right) <= tolerances.DOT_PRODUCT * norm([moved]) * norm([d_outputs[k]])
    if net.static_size is None:
        return
    whole = jacobian.vjp(net, params, x, d_outputs=d_outputs, wrt=("static",), **keywords)
    assert whole.dx is None
    scales = np.broadcast_to(whole.dstatic_exponent.reshape(-1, 1), (3, 1))
    for k in range(3):
        one = np.ldexp(found.dstatic[k], int(found.dstatic_exponent[k, 0]))
        assert error(np.ldexp(whole.dstatic[k], int(scales[k, 0])), one) <= tolerances.DOUBLE * 10


@pytest.mark.parametrize("name", ["all", "states with skips"])
def test_bits_of_cotangents(name):
    case = case_of(name, steps=4 * BLOCK + 5)
    rng = np.random.default_rng(3)
    (net, params, x), keywords = case.core("float32")
    outputs = (5, *x.shape[:2], net.output_size)
    given = {
        "d_outputs": rng.standard_normal(outputs).astype("float32"),
        "wrt": ("static", "state"),
    }

    def run(**how):
        with override(exact_threads=True):
            return jacobian.vjp(net, params, x, **given, **keywords, **how)

    whole = run(memory="full", threads=1)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        run(memory=1, threads=1)
    for how in ({"memory": refused.value.smallest, "threads": 1}, {"threads": 2}, {"threads": 3}):
        part = run(**how)
        np.testing.assert_array_equal(whole.dstatic, part.dstatic)
        np.testing.assert_array_equal(whole.dstatic_exponent, part.dstatic_exponent)


@pytest.mark.parametrize("growth", [8.0, 2.0**-5])
def test_cotangents_of_exploding_and_vanishing_adjoints(growth):
    """The same products with one pass each, and all together."""
    net = gd.Stack(
        gd.StaticInput(S, 3),
        gd.RNN(3, 3, nonlinearity="identity", bias=False, initial_state="static", static_size=S),
    )
    params = net.init(seed=2, dtype="float32")
    params["1.weight_hh"] = (growth * np.roll(np.eye(3), 1, axis=0)).astype("float32")
    x, static = np.zeros((700, 2, 3), "float32"), np.zeros((2, S), "float32")
    d_outputs = np.zeros((2, 700, 2, 3), "float32")
    d_outputs[0, -1], d_outputs[1, 100] = 1.0, -3.0
    given = {"d_outputs": d_outputs, "static": static}
    together = jacobian.vjp(net, params, x, wrt=("static",), **given)
    apart = jacobian.vjp(net, params, x, wrt=("params", "static"), **given)
    scale = int(together.dstatic_exponent[0])
    assert growth < 1 or scale > 1900
    for k, far in ((0, False), (1, True)):
        if far and growth > 1:
            assert not together.dstatic[1].any()  # 2**1800 smaller than that of k = 0
            continue
        one = np.ldexp(apart.dstatic[k].astype(float), int(apart.dstatic_exponent[k, 0]) - scale)
        assert error(together.dstatic[k].astype(float), one) <= tolerances.SINGLE


@pytest.mark.parametrize("name", NETS)
def test_hessian_and_gauss_newton_products(name):
    """By a complex step of the reference's gradient, along parameters and static inputs at once."""
    case = case_of(name, steps=150, batch=3)
    along, by_static = directions(case, 1)
    reads = case.net.static_size is not None
    if not reads:
        by_static = np.zeros_like(by_static)
    step = 1e-30
    moved = {n: a + 1j * step * along[0][n] for n, a in case.params.items()}
    _, params, static, _, _ = case.by_reference(moved, case.static + 1j * step * by_static[0])
    want = {n: a.imag / step for n, a in params.items()}
    product, by_input = core_product(case, flat(case, along)[0], by_static)
    floor = 1e-2 * norm(want.values())
    for n, a in want.items():
        assert error(product[n], a, floor) <= 100 * tolerances.DOUBLE, n
    if reads:
        assert error(by_input, static.imag / step) <= 100 * tolerances.DOUBLE

    runs = statics.forward(case.net, case.params, case.static, case.x, lengths=case.lengths)
    still = np.zeros_like(by_static[0])
    t_outputs = statics.tangent(case.net, case.params, case.static, runs, along[0], still)
    curved = losses.gauss_newton(LOSS, runs.outputs, t_outputs, case.y, None, case.lengths)
    want = statics.backward(case.net, case.params, case.static, runs, curved)[0]
    (net, params, x), keywords = case.core()
    made = jacobian.gauss_newton_product(
        net, params, x, case.y, flat(case, along), loss=LOSS, **keywords
    )
    got = gd.Params(net, made.product[0])
    for n, a in want.items():
        assert error(got[n], a, 1e-2 * norm(want.values())) <= 100 * tolerances.DOUBLE, n


def core_product(case, direction, by_static, threads=1, memory="full"):
    """The Hessian's product along parameters and static inputs, by both."""
    (net, params, x), keywords = case.core()
    inputs = validate.inputs(net, params.dtype, x, **keywords)
    goal: Objective = objective(LOSS, net, params.dtype, inputs, case.y, None)
    results = {
        "grads": np.empty(net.n_parameters),
        "product": np.empty(net.n_parameters),
    }
    arrays = {"t_params": direction.flat[None]}
    if net.static_size:
        results |= {
            "d_static": np.empty(case.static.shape),
            "d_static_exponent": np.empty(1, np.int32),
            "t_d_static": np.empty(case.static.shape),
        }
        arrays["t_static"] = by_static
    with override(exact_threads=True):
        prepare(
            params,
            inputs.beside(arrays),
            validate.mode(net, False, None),
            goal,
            results,
            memory,
            threads,
            None,
            tangents=1,
            curvature="hessian",
        ).run()
    return gd.Params(net, results["product"]), results.get("t_d_static")


@pytest.mark.parametrize("name", ["all", "both directions", "states of both directions"])
def test_bits_of_hessian_products(name):
    case = case_of(name, steps=3 * BLOCK + 5)
    along, by_static = directions(case, 1)
    direction = flat(case, along)[0]
    whole = core_product(case, direction, by_static)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        core_product(case, direction, by_static, memory=1)
    for how in ({"memory": refused.value.smallest}, {"threads": 2}, {"threads": 3}):
        part = core_product(case, direction, by_static, **how)
        np.testing.assert_array_equal(whole[0].flat, part[0].flat)
        np.testing.assert_array_equal(whole[1], part[1])


@pytest.mark.parametrize("name", ["all", "static state"])
def test_per_sample_gradients_add_up(name):
    case = case_of(name)
    (net, params, x), keywords = case.core()
    loss = gd.loss.MeanSquaredError(reduction="sum")
    each = jacobian.per_sample_gradients(net, params, x, case.y, loss=loss, **keywords)
    whole = gd.value_and_grad(net, params, x, case.y, loss=loss, train=False, **keywords)
    assert error(sum(g.flat for g in each), whole.grads.flat) <= 10 * tolerances.DOUBLE


@pytest.mark.parametrize("name", ONE_WAY)
def test_measures_of_the_state(name):
    """Static inputs do not change a step's Jacobian by their being constant."""
    case = case_of(name, steps=12, batch=2, ragged=False)
    (net, params, x), keywords = case.core()
    one = jacobian.step_jacobians(net, params, x, [0, 5, 11], **keywords)
    whole = jacobian.state_jacobian(net, params, x, **keywords)
    every = jacobian.step_jacobians(net, params, x, range(12), **keywords)
    np.testing.assert_array_equal(one, every[[0, 5, 11]])
    product = every[0]
    for step in every[1:]:
        product = step @ product
    assert error(np.ldexp(whole.mantissa, whole.exponent), product) <= 1e-11


def test_directions_of_the_state_join_those_that_the_net_makes():
    case = case_of("states with skips")
    along, by_static = directions(case, 1)
    (net, params, x), keywords = case.core()
    end = gd.apply(net, params, x, **keywords)[1]
    moved = tuple(
        gd.LayerState(s.h[None], None if s.c is None else s.c[None], s.skip[None]) for s in end
    )
    by_params = flat(case, along)

    def outputs(**given):
        return true_outputs(jacobian.jvp(net, params, x, **given, **keywords))

    both = outputs(dparams=by_params, dstatic=by_static, dstate=moved)
    apart = outputs(dparams=by_params, dstatic=by_static) + outputs(dstate=moved)
    assert error(both, apart) <= 1e-12


def test_directions_of_static_are_checked():
    case = case_of("first")
    (net, params, x), keywords = case.core()
    with pytest.raises(gd.ShapeError, match=r"dstatic must have shape \(K, 5, 3\)"):
        jacobian.jvp(net, params, x, dstatic=case.static, **keywords)
    plain = gd.Stack(gd.GRU(2, 4))
    with pytest.raises(gd.ArgumentError, match="dstatic must be None"):
        jacobian.jvp(plain, plain.init(dtype="float64"), x, dstatic=case.static[None])
