"""Several heads with a loss and a weight each: the core against the reference in values, gradients
and products, differences, PyTorch, nets with one head, and the same bits for all budgets, threads.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from heads import SCALES, WIDTHS, heads_call, heads_net, solved
from pairwise import covering, label
from problem import error, isa, norm
from reference import heads as reference
from reference import two_ways

BLOCK = _core.block_steps()
ALL = "abcdefgh"
EVERY_STEP = "abdef"
FACTORS = {
    "names": ["a", "d", "ab", "ba", "cdg", "hf", EVERY_STEP, ALL],
    "steps": [7, BLOCK, 2 * BLOCK + 44],
    "batch": [1, 2, 5],
    "weight": [None, "each"],
    "lengths": [False, True],
    "body": ["plain", "both ways", "embedding", "dense"],
    "dtype": ["float32", "float64"],
    "isa": _core.isa_available(),
    "threads": [1, 2, 3],
    "memory": ["full", "smallest"],
}
BODIES = {
    "plain": {},
    "both ways": {"bidirectional": (0,)},
    "embedding": {"vocabulary": 11, "cell": "lstm", "layers": 2},
    "dense": {"between": "dense", "hidden": 17},
}
CASES = covering(FACTORS, seed=3)


def smallest(call, dtype, **how):
    """The smallest budget, as the error for one that is too small has it."""
    with pytest.raises(gd.errors.MemoryBudgetError) as caught:
        solved(call, dtype, memory=1, **how)
    return caught.value.smallest


def true_grads(found):
    return {n: np.ldexp(a.astype(float), found.grads.exponent) for n, a in found.grads.items()}


@pytest.mark.parametrize("case", CASES, ids=label)
def test_agrees_with_the_reference(case):
    call = heads_call(
        case["names"], case["steps"], case["batch"],
        weight=case["weight"], lengths=case["lengths"], reset=case["lengths"], seed=5,
        **BODIES[case["body"]],
    )  # fmt: skip
    dtype, threads = case["dtype"], case["threads"]
    with isa(case["isa"]):
        memory = case["memory"]
        if memory == "smallest":
            memory = smallest(call, dtype, threads=threads)
        found = solved(call, dtype, memory=memory, threads=threads)
        arguments, _ = call.arguments(dtype)
        outputs, _ = gd.apply(*arguments[:3], **call.masks, threads=threads)
    assert found.arena_bytes <= found.plan.bytes or threads > 1
    loss, values, grads, dx, expected = call.solved_by_reference()
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    size = sum(abs(SCALES[n] * v) for n, v in values.items())  # heads may cancel
    assert abs(found.loss - loss) <= tolerance * size
    assert list(found.losses) == list(case["names"]) == list(outputs)
    for name, value in values.items():
        assert abs(found.losses[name] - value) <= 4 * tolerance * max(abs(value), 1e-3)
        assert error(outputs[name].astype(float), expected[name]) <= tolerance
    got, floor = true_grads(found), 1e-2 * norm(grads.values())
    assert got.keys() == grads.keys()
    wrong = {n: e for n, a in grads.items() if (e := error(got[n], a, floor)) > 4 * tolerance}
    assert wrong == {}
    if dx is not None:
        got_x = np.ldexp(found.dx.astype(float), found.dx_exponent[:, None, None])
        assert error(got_x, dx) <= 4 * tolerance


def test_weights_of_terms_by_head():
    """The divisor of each mean is the head's own: class weights, missing and ignored targets."""
    call = heads_call("abc", 60, 3, weight="each", lengths=True)
    found = solved(call)
    alive = np.arange(60)[:, None] < call.lengths
    kept = alive & (call.y["a"] != -100)
    classes = np.array(call.loss.entries[0][1].weight)[np.where(kept, call.y["a"], 0)]
    assert np.isclose(found.loss_weights["a"], (kept * call.weight["a"] * classes).sum())
    there = ~np.isnan(call.y["b"]) & alive[..., None]
    assert np.isclose(found.loss_weights["b"], (there * call.weight["b"][..., None]).sum() / 2)
    assert found.loss_weights["c"] == 3
    assert np.isclose(found.loss_weight, sum(found.loss_weights.values()))


@pytest.mark.parametrize("names", ["ab", "cdg", ALL])
def test_differences(names):
    """Central differences of the loss along a random direction, in float64."""
    call = heads_call(names, 40, 3, lengths=True)
    arguments, how = call.arguments("float64")
    net, params, *data = arguments
    v = np.random.default_rng(1).standard_normal(net.n_parameters)
    v /= np.linalg.norm(v)

    def value(step):
        return gd.value(net, gd.Params(net, params.flat + step * v), *data, **how)

    h = 1e-3 if not set("ef") & set(names) else 1e-5  # losses with a kink
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    grads = solved(call).grads.flat
    limit = tolerances.DIFFERENCES if h == 1e-3 else tolerances.DIFFERENCES_KINKED
    assert abs(slope - grads @ v) <= limit * np.linalg.norm(grads)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("names", ["ab", "dca", "eg", "hb"])
def test_hessian_and_gauss_newton_products(names, body):
    """H v by a complex step of the reference's gradient, and J^T (H (J v)) by the reference."""
    call = heads_call(names, BLOCK + 9, 2, weight="each", lengths=True, **BODIES[body])
    arguments, how = call.arguments("float64")
    rng = np.random.default_rng(2)
    v = {name: rng.standard_normal(a.shape) for name, a in call.params.items()}
    flat = gd.Params(call.net, np.empty(call.net.n_parameters))
    for name, array in v.items():
        flat[name] = array
    found = jacobian.hvp(*arguments, flat.flat[None], **how)
    assert found.loss == solved(call).loss

    whole = reference.joined_net(call.net)
    moved_params = {n: a + 1e-30j * v[n] for n, a in call.params.items()}
    joined = reference.joined_params(call.net, moved_params)
    trace = two_ways.forward(whole, joined, call.x, **call.masks)
    _, slopes, _ = reference.evaluate(
        call.net, call.loss, trace.outputs, call.y, call.weight, call.lengths
    )
    grads = two_ways.backward(whole, joined, trace, slopes).params
    expected = {n: a.imag / 1e-30 for n, a in reference.parted(call.net, grads).items()}
    check_product(call.net, found.product[0], expected)

    joined = reference.joined_params(call.net, call.params)
    still = two_ways.forward(whole, joined, call.x, **call.masks)
    curved = reference.gauss_newton(
        call.net, call.loss, still.outputs, trace.outputs.imag / 1e-30,
        call.y, call.weight, call.lengths,
    )  # fmt: skip
    grads = two_ways.backward(whole, joined, still, curved).params
    product = jacobian.gauss_newton_product(*arguments, flat.flat[None], **how).product[0]
    check_product(call.net, product, reference.parted(call.net, grads))


def check_product(net, product, expected):
    got = gd.Params(net, product)
    floor = 1e-2 * norm(expected.values())
    wrong = {n: e for n, a in expected.items() if (e := error(got[n], a, floor)) > 1e-11}
    assert wrong == {}


def test_no_gauss_newton_product_of_a_quantile_head():
    call = heads_call("af", 20, 2)
    arguments, how = call.arguments("float64")
    v = np.ones((1, call.net.n_parameters))
    assert jacobian.hvp(*arguments, v, **how).product.any()
    with pytest.raises(gd.errors.ArgumentError, match="quantile loss has no Gauss-Newton matrix"):
        jacobian.gauss_newton_product(*arguments, v, **how)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", _core.isa_available())
@pytest.mark.parametrize("body", ["plain", "both ways"])
def test_budgets_and_threads_have_the_same_bits(body, level, dtype):
    call = heads_call(
        ALL, 6 * BLOCK + 57, 3, weight="each", lengths=True, reset=True, **BODIES[body]
    )
    with isa(level):
        whole = solved(call, dtype, memory="full", threads=1)
        least = smallest(call, dtype, threads=1)
        middle = (2 * least + whole.plan.bytes) // 3
        others = [solved(call, dtype, memory=m, threads=1) for m in (least, middle)]
        others += [solved(call, dtype, memory="full", threads=t) for t in (2, 3, 5)]
        others += [solved(call, dtype, memory=smallest(call, dtype, threads=2), threads=2)]
    assert whole.plan.segments == 1 < others[0].plan.segments
    for other in others:
        assert other.loss == whole.loss
        assert other.losses == whole.losses
        assert other.grads == whole.grads
        np.testing.assert_array_equal(other.dx, whole.dx)


@pytest.mark.parametrize("name", "abcdef")
def test_one_head_of_several_is_that_net_alone(name):
    """With weight 0 for the others it has the gradient of a net with this head alone."""
    call = heads_call("abcdef", 2 * BLOCK + 9, 3, weight="each", lengths=True)
    one = replace(call, loss=call.loss.reweighted({n: float(n == name) for n in "abcdef"}))
    found = solved(one)
    alone = heads_net(name)
    place = len(alone.layers) - 1
    linear = gd.Stack(*alone.layers[:-1], dict(alone.layers[-1].heads)[name])
    own = {
        n.replace(f"{place}.{name}.", f"{place}."): a
        for n, a in call.params.items()
        if not n.startswith(f"{place}.") or n.startswith(f"{place}.{name}.")
    }
    params = gd.Params(linear, np.empty(linear.n_parameters))
    for n, array in own.items():
        params[n] = array
    weight = call.weight.get(name)
    own_loss = {n: one for n, one, _ in call.loss.entries}[name]
    expected = gd.value_and_grad(
        linear, params, call.x, call.y[name], loss=own_loss,
        weight=weight, **call.masks, wrt=("params", "x"),
    )  # fmt: skip
    assert np.isclose(found.loss, expected.loss, rtol=1e-14, atol=0)
    assert error(found.dx, expected.dx) <= tolerances.DOUBLE
    for n, array in expected.grads.items():
        named = n.replace(f"{place}.", f"{place}.{name}.") if n.startswith(f"{place}.") else n
        assert error(found.grads[named], array) <= tolerances.DOUBLE
    for other in set("abcdef") - {name}:
        assert not found.grads[f"{place}.{other}.weight"].any()


def test_a_single_head_has_the_bits_of_a_linear():
    for name in "abcdef":
        call = heads_call(name, 2 * BLOCK + 9, 3, lengths=True)
        one = replace(call, loss=call.loss.reweighted({name: 1.0}))
        linear = gd.Stack(*call.net.layers[:-1], call.net.layers[-1].heads[0][1])
        for dtype in ("float32", "float64"):
            found = solved(one, dtype)
            (_, params, x, y), _ = one.arguments(dtype)
            expected = gd.value_and_grad(
                linear, gd.Params(linear, params.flat), x, y[name],
                loss=call.loss.entries[0][1], **call.masks,
            )  # fmt: skip
            assert found.loss == expected.loss
            np.testing.assert_array_equal(found.grads.flat, expected.grads.flat)


def test_means_over_parts_of_the_outputs_add_up_to_the_whole():
    """Squared errors of 1 + 17 + 6 outputs, each mean weighted by its width, are those of 24."""
    heads = {n: gd.Linear(12, w) for n, w in {"x": 1, "y": 17, "z": 6}.items()}
    net = gd.Stack(gd.LSTM(4, 12), gd.Heads(**heads))
    linear = gd.Stack(gd.LSTM(4, 12), gd.Linear(12, 24))
    rng = np.random.default_rng(0)
    params = net.init(3, "float64")
    x, y = rng.standard_normal((300, 3, 4)), rng.standard_normal((300, 3, 24))
    loss = gd.loss.Heads(
        dict.fromkeys(heads, "mse"), weights={"x": 1 / 24, "y": 17 / 24, "z": 6 / 24}
    )
    found = gd.value_and_grad(net, params, x, net.named(y), loss=loss)
    same = gd.Params(linear, params.flat)  # heads with biases lie as they were given
    expected = gd.value_and_grad(linear, same, x, y, loss="mse")
    assert np.isclose(found.loss, expected.loss, rtol=1e-14, atol=0)
    assert error(found.grads.flat, expected.grads.flat) <= tolerances.DOUBLE


def test_adjoints_beyond_the_range_of_the_dtype():
    """A linear recurrence that grows by a factor of 1.1 a step for 2,000 steps, in float32."""
    heads = {"x": gd.Linear(2, 3), "y": gd.Linear(2, 2, bias=False)}
    net = gd.Stack(gd.RNN(2, 2, nonlinearity="identity", bias=False), gd.Heads(**heads))
    steps, small = 2_000, 1e-37
    y = {"x": np.zeros((1, 3)), "y": np.ones((1, 2))}
    losses = {"x": gd.loss.MeanSquaredError(step="last"), "y": gd.loss.Huber(1.0, step="last")}
    loss = gd.loss.Heads(losses, weights={"x": 0.0, "y": 1.0})
    found = {}
    for dtype in ("float32", "float64"):
        params = net.init(0, dtype, gain=1.1)
        x = np.zeros((steps, 1, 2), dtype)
        x[-1] = small
        targets = {n: a.astype(dtype) for n, a in y.items()}
        r = gd.value_and_grad(net, params, x, targets, loss=loss, wrt=("params", "x"))
        found[dtype] = r
    one, two = found["float32"], found["float64"]
    log_one = np.log2(np.abs(one.dx[0]).max()) + one.dx_exponent[0]
    log_two = np.log2(np.abs(two.dx[0]).max()) + two.dx_exponent[0]
    assert log_one > 150  # beyond float32
    assert abs(log_one - log_two) < 1e-2
    assert not one.grads["1.x.weight"].any()


def test_tangents_and_cotangents_by_head():
    """<J v, w> = <v, J^T w> with dicts of heads, together and one by one."""
    call = heads_call("adb", 2 * BLOCK + 3, 2, lengths=True)
    (net, params, x, _), _ = call.arguments("float64")
    rng = np.random.default_rng(4)
    v = rng.standard_normal((3, net.n_parameters))
    dx = rng.standard_normal((3, *x.shape))
    alive = (np.arange(len(x))[:, None] < call.lengths)[..., None]
    forward = jacobian.jvp(net, params, x, dparams=v, dx=dx, lengths=call.lengths)
    outputs, _ = gd.apply(net, params, x, lengths=call.lengths)
    assert list(forward.d_outputs) == list(outputs) == ["a", "d", "b"]
    for name in outputs:
        np.testing.assert_array_equal(forward.outputs[name], outputs[name])
    w = {n: rng.standard_normal((3, *o.shape)) for n, o in outputs.items()}
    back = jacobian.vjp(net, params, x, d_outputs=w, lengths=call.lengths, wrt=("params", "x"))
    left = sum((forward.d_outputs[n] * w[n]).sum(axis=(1, 2, 3)) for n in w)
    moved = np.ldexp(back.dx, back.dx_exponent[..., None, None])
    right = [g.flat @ one for g, one in zip(back.grads, v, strict=True)]
    right = np.array(right) + (moved * dx * alive).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(left, right, rtol=tolerances.DOT_PRODUCT)
    together = jacobian.vjp(net, params, x, d_outputs=w, lengths=call.lengths, wrt=("x",))
    scaled = np.ldexp(together.dx, together.dx_exponent[:, None, None])
    assert error(scaled, moved) <= tolerances.DOUBLE
    part = jacobian.vjp(net, params, x, d_outputs={**w, "a": None}, wrt=("x",))
    zero = jacobian.vjp(net, params, x, d_outputs={**w, "a": 0 * w["a"]}, wrt=("x",))
    np.testing.assert_array_equal(part.dx, zero.dx)


def test_passes_in_two_calls():
    call = heads_call("ab", 2 * BLOCK + 3, 2, lengths=True)
    (net, params, x, y), _ = call.arguments("float64")
    began = gd.forward(net, params, x, lengths=call.lengths, memory="full")
    outputs, _ = gd.apply(net, params, x, lengths=call.lengths)
    for name in "ab":
        np.testing.assert_array_equal(began.outputs[name], outputs[name])
    joined = np.concatenate([outputs["a"], outputs["b"]], axis=-1)
    _, slopes, _ = reference.evaluate(net, call.loss, joined, y, None, call.lengths)
    got = began.backward({"a": slopes[..., :7].copy(), "b": slopes[..., 7:].copy()})
    assert error(got.grads.flat, solved(call).grads.flat) <= tolerances.DOUBLE
    again = gd.forward(net, params, x, lengths=call.lengths)
    half = again.backward({"a": None, "b": slopes[..., 7:].copy()})
    assert not half.grads["1.a.weight"].any()
    assert half.grads["1.b.weight"].any()


def test_stepper_gives_outputs_by_head():
    call = heads_call("adb", 40, 2)
    (net, params, x, _), _ = call.arguments("float32")
    outputs, _ = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=2)
    steps = [stepper.step(x_t) for x_t in x[:30]]
    rest = stepper.run(x[30:])
    for name, array in outputs.items():
        assert array.shape == (40, 2, WIDTHS[name])
        one = np.stack([step[name] for step in steps])
        np.testing.assert_array_equal(np.concatenate([one, rest[name]]), array)


def test_gradients_that_are_given_to_one_head():
    """Given beside a sum: its gradient times the head's weight, and no value."""
    call = heads_call("ab", 2 * BLOCK + 3, 2)
    (net, params, x, y), _ = call.arguments("float64")
    slope = np.random.default_rng(0).standard_normal((*x.shape[:2], 7))
    losses = {"a": gd.loss.Given(), "b": call.loss.entries[1][1]}
    loss = gd.loss.Heads(losses, weights={"a": -2.0, "b": 0.5})
    found = gd.value_and_grad(net, params, x, {"a": slope, "b": y["b"]}, loss=loss)
    only = gd.loss.Heads({"a": call.loss.entries[0][1], "b": call.loss.entries[1][1]},
                         weights={"a": 0.0, "b": 0.5})  # fmt: skip
    rest = gd.value_and_grad(net, params, x, {"b": y["b"]}, loss=only)
    given = gd.forward(net, params, x).backward({"a": -2.0 * slope, "b": None})
    assert found.loss == rest.loss == gd.value(net, params, x, {"a": slope, "b": y["b"]}, loss=loss)
    assert found.losses == {"a": 0.0, "b": rest.losses["b"]}
    expected = rest.grads.flat + given.grads.flat
    assert error(found.grads.flat, expected) <= tolerances.DOUBLE


def test_functions_see_outputs_by_head():
    call = heads_call("ab", 2 * BLOCK + 3, 2)
    (net, params, x, _), _ = call.arguments("float64")

    def squares(outputs, t0, t1):
        assert list(outputs) == ["a", "b"]
        value = sum((z**2).sum() for z in outputs.values()) / 2
        return value, dict(outputs)

    found = gd.value_and_grad(net, params, x, loss=squares)
    zeros = net.named(np.zeros((*x.shape[:2], net.output_size)))
    half = gd.loss.Heads(
        {n: gd.loss.MeanSquaredError(reduction="sum") for n in "ab"}, weights={"a": 0.5, "b": 0.5}
    )
    expected = gd.value_and_grad(net, params, x, zeros, loss=half)
    assert np.isclose(found.loss, expected.loss, rtol=1e-13)
    assert error(found.grads.flat, expected.grads.flat) <= tolerances.DOUBLE
