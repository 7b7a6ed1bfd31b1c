"""Static inputs and initial states of a net: gradients, bits, scaled adjoints, what is refused."""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core
from gradcore._engine.operations import OpKind, Schedule
from gradcore._net.description import core_net
from overriding import override
from problem import error, isa, norm
from static_nets import LEARNED, LOSS, NETS, STATIC, S, case_of

BLOCK = _core.block_steps()


def wrt_of(net):
    return ("params", "x", "state") + (("static",) if net.static_size else ())


def solve(case, dtype="float64", *, memory="full", threads=1, **how):
    arguments, keywords = case.core(dtype)
    with override(exact_threads=True):
        return gd.value_and_grad(
            *arguments,
            case.y.astype(dtype),
            loss=LOSS,
            wrt=wrt_of(case.net),
            memory=memory,
            threads=threads,
            train=False,
            **keywords,
            **how,
        )


def arrays_of(found):
    """All numbers of a result."""
    made = [np.array([found.loss]), found.grads.flat, np.array([found.grads.exponent])]
    made += [found.dx, found.dx_exponent, found.dstate_exponent]
    made += [found.dstatic, np.array([found.dstatic_exponent])]
    for states in (found.state, found.dstate):
        for state in states:
            made += [state.h, state.c, state.skip]
            made += [] if state.reverse is None else [state.reverse.h, state.reverse.c]
    return [a for a in made if a is not None]


def assert_same(one, other):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_reference(name, dtype, ragged):
    case = case_of(name, ragged=ragged)
    value, params, static, x, states = case.by_reference()
    found = solve(case, dtype)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    tolerance *= tolerances.NORM if name in ("all", "states of both directions") else 1
    assert abs(found.loss - value) <= tolerance * abs(value)
    floor = 1e-2 * norm(params.values())
    got = {n: np.ldexp(a.astype(float), found.grads.exponent) for n, a in found.grads.items()}
    wrong = {n: e for n in params if (e := error(got[n], params[n], floor)) > tolerance}
    assert wrong == {}
    assert error(np.ldexp(found.dx.astype(float), found.dx_exponent[:, None, None]), x) <= tolerance
    if case.net.static_size:
        assert found.dstatic.dtype == dtype
        got = np.ldexp(found.dstatic.astype(float), found.dstatic_exponent)
        assert error(got, static) <= tolerance
    for b in range(len(case.static)):
        first = (
            found.dstate[0].h[b] if found.dstate[0].skip is None else found.dstate[0].skip[-1, b]
        )
        scale = int(found.dstate_exponent[0])
        got = np.ldexp(first.astype(float), scale)
        assert error(got, states[b][0].past[-1, 0], floor) <= tolerance


@pytest.mark.parametrize("name", NETS)
def test_finite_differences(name):
    case = case_of(name, steps=40, batch=3)
    rng = np.random.default_rng(1)
    along = {n: rng.standard_normal(a.shape) for n, a in case.params.items()}
    by_static = rng.standard_normal(case.static.shape)

    def loss(step):
        (net, params, x), keywords = case.core()
        for n, a in along.items():
            params[n] = case.params[n] + step * a
        if net.static_size:
            keywords["static"] = case.static + step * by_static
        return gd.value(net, params, x, case.y, loss=LOSS, **keywords)

    h = 5e-4
    differences = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    found = solve(case)
    exact = sum(np.vdot(found.grads[n], a) for n, a in along.items())
    size = norm([found.grads.flat]) * norm(along.values())
    if case.net.static_size:
        exact += np.vdot(found.dstatic, by_static)
        size += norm([found.dstatic]) * norm([by_static])
    assert abs(differences - exact) <= tolerances.DIFFERENCES * size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", _core.isa_available())
def test_bits_for_budgets_and_threads(level, dtype):
    for name in ("all", "both directions", "states of both directions", "states with skips"):
        case = case_of(name, steps=5 * BLOCK + 3)
        with isa(level):
            whole = solve(case, dtype)
            assert whole.plan.segments == 1
            with pytest.raises(gd.MemoryBudgetError) as refused:
                solve(case, dtype, memory=1)
            for memory in (
                refused.value.smallest,
                (refused.value.smallest + whole.plan.bytes) // 2,
            ):
                part = solve(case, dtype, memory=memory)
                assert part.arena_bytes <= part.plan.bytes <= memory
                assert_same(whole, part)
            assert part.plan.segments > 1 or name == "both directions"
            for threads in (2, 3):
                assert_same(whole, solve(case, dtype, threads=threads))


@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 33])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_dense_in_front_equals_one_map_of_both(batch, width):
    """x and static side by side, tiled over all steps."""
    rng = np.random.default_rng(width)
    net = gd.Stack(gd.Dense(2, width), gd.StaticInput(S, width), gd.LSTM(width, 4))
    both = gd.Stack(gd.Dense(2 + S, width), gd.LSTM(width, 4))
    params, tiled = net.init(seed=1, dtype="float64"), both.init(seed=1, dtype="float64")
    tiled["0.weight"] = np.concatenate([params["0.weight"], params["1.weight"]], axis=1)
    tiled["0.bias"] = params["0.bias"]
    for own in both.layers[1].parameter_shapes:
        tiled[f"1.{own}"] = params[f"2.{own}"]
    x, static = rng.standard_normal((30, batch, 2)), rng.standard_normal((batch, S))
    lengths, y = rng.integers(31, size=batch), rng.standard_normal((30, batch, 4))
    how = {"loss": "mse", "lengths": np.maximum(lengths, 1)}
    one = gd.value_and_grad(net, params, x, y, static=static, wrt=("params", "static"), **how)
    wide = np.concatenate([x, np.broadcast_to(static, (30, batch, S))], axis=2)
    two = gd.value_and_grad(both, tiled, wide, y, wrt=("params", "x"), **how)
    assert abs(one.loss - two.loss) <= 1e-13
    assert error(one.grads["1.weight"], two.grads["0.weight"][:, 2:]) <= 1e-12
    assert error(one.dstatic, two.dx[:, :, 2:].sum(axis=0)) <= 1e-12


def test_as_by_hand_in_pytorch():
    torch = pytest.importorskip("torch")
    case = case_of("static state", ragged=False)
    torch.manual_seed(0)
    p = {n: torch.tensor(a, requires_grad=True) for n, a in case.params.items()}
    x, static = torch.tensor(case.x), torch.tensor(case.static, requires_grad=True)
    map_ = torch.randn(2, S, dtype=torch.float64, requires_grad=True)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm = torch.nn.LSTM(2, 9, dtype=torch.float64)
    begin = [static @ p[f"0.initial_{s}_weight"].T + p[f"0.initial_{s}"] for s in "hc"]
    rows = x + (static @ map_.T).expand(len(x), -1, -1)
    outputs, _ = torch.func.functional_call(
        lstm,
        {f"{n}_l0": p[f"0.{n}"] for n in names},
        (rows, (begin[0][None], begin[1][None])),
    )
    outputs = outputs @ p["1.weight"].T + p["1.bias"]
    torch.nn.functional.mse_loss(outputs, torch.tensor(case.y)).backward()

    net = gd.Stack(gd.StaticInput(S, 2), *case.net.layers)
    params = net.init(dtype="float64")
    params["0.weight"] = map_.detach().numpy()
    for name, array in case.params.items():
        params[f"{int(name[0]) + 1}{name[1:]}"] = array
    found = gd.value_and_grad(
        net, params, case.x, case.y, static=case.static, loss="mse", wrt=("params", "static")
    )
    assert error(found.dstatic, static.grad.numpy()) <= tolerances.DOUBLE
    assert error(found.grads["0.weight"], map_.grad.numpy()) <= tolerances.DOUBLE
    for name, tensor in p.items():
        got = found.grads[f"{int(name[0]) + 1}{name[1:]}"]
        assert error(got, tensor.grad.numpy()) <= 10 * tolerances.DOUBLE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exploding_adjoints(dtype):
    """The gradient of a bias, which is known to be right, has the same terms for one sequence."""
    rng, steps, size = np.random.default_rng(0), 1500, 4
    grown = (2.0 * np.roll(np.eye(size), 1, axis=0)).astype(dtype)
    cell = {"nonlinearity": "identity", "bias": False}
    net = gd.Stack(
        gd.StaticInput(S, size), gd.RNN(size, size, initial_state="static", static_size=S, **cell)
    )
    plain = gd.Stack(gd.Dense(size, size), gd.RNN(size, size, **cell))
    params, other = net.init(dtype=dtype), plain.init(dtype=dtype)
    unit = np.eye(size, dtype=dtype)
    other["0.weight"], other["0.bias"] = unit, np.zeros(size, dtype)
    for name, value in (("weight_ih", unit), ("weight_hh", grown)):
        params[f"1.{name}"] = other[f"1.{name}"] = value
    for name in ("0.weight", "1.initial_h_weight"):
        params[name] = (rng.integers(-4, 5, (size, S)) / 4).astype(dtype)
    x, static = np.zeros((steps, 1, size), dtype), np.zeros((1, S), dtype)
    y = np.zeros((steps, 1, size), dtype)
    y[-1] = 1.0
    wrt = ("params", "static", "state")
    found = gd.value_and_grad(net, params, x, y, static=static, loss="mse", wrt=wrt)
    same = gd.value_and_grad(plain, other, x, y, loss="mse", wrt=("params", "state"))
    assert same.grads.exponent > 1100
    exponent = int(same.dstate_exponent[0])
    bias = params["0.weight"].T.astype(float) @ same.grads["0.bias"].astype(float)
    state = params["1.initial_h_weight"].T.astype(float) @ same.dstate[0].h[0].astype(float)
    want = bias + np.ldexp(state, exponent - same.grads.exponent)
    got = np.ldexp(found.dstatic[0].astype(float), found.dstatic_exponent - same.grads.exponent)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    assert error(got, want) <= tolerance
    got = np.ldexp(found.grads["1.initial_h"].astype(float), found.grads.exponent - exponent)
    assert error(got, same.dstate[0].h[0].astype(float)) <= tolerance


@pytest.mark.parametrize(
    "name", ["learned state", "states with skips", "states of both directions"]
)
def test_a_given_state_takes_the_place_of_the_nets(name):
    case = case_of(name)
    (net, params, x), keywords = case.core()
    begin = gd.apply(net, params, x, **(keywords | {"lengths": np.zeros(5, np.int64)}))[1]
    own = solve(case)
    same = solve(case, state=begin)
    assert own.loss == same.loss
    np.testing.assert_array_equal(own.dx, same.dx)
    parts = [n for n in params if "initial_" in n]
    assert parts
    for n in params:
        if n in parts:
            assert own.grads[n].any()
            assert not same.grads[n].any()
        else:
            np.testing.assert_array_equal(own.grads[n], same.grads[n])


def test_all_outputs_that_a_skip_reaches_back_to_begin_alike():
    net = gd.Stack(gd.LSTM(2, 3, skip=gd.Skip(4), initial_state="learned"))
    params = net.init(dtype="float64")
    params["0.initial_h"], params["0.initial_c"] = np.arange(1.0, 4.0), np.arange(4.0, 7.0)
    state = gd.apply(net, params, np.zeros((1, 2, 2)), lengths=[0, 0])[1][0]
    np.testing.assert_array_equal(state.skip, np.broadcast_to([1.0, 2, 3], (4, 2, 3)))
    np.testing.assert_array_equal(state.c, np.broadcast_to([4.0, 5, 6], (2, 3)))


def test_initial_values():
    net = gd.Stack(gd.StaticInput(4, 50), gd.LSTM(50, 60, initial_state="static", static_size=4))
    params = net.init(seed=3)
    assert not params["1.initial_h"].any()
    for name in ("0.weight", "1.initial_h_weight", "1.initial_c_weight"):
        assert 0.45 < np.abs(params[name]).max() <= 0.5


# ---- what is refused


def small():
    net = gd.Stack(gd.StaticInput(S, 2), gd.GRU(2, 4))
    return net, net.init(), np.zeros((5, 2, 2), np.float32), np.zeros((2, S), np.float32)


def test_static_must_fit():
    net, params, x, static = small()
    with pytest.raises(gd.ArgumentError, match=r"static must be given.*\(2, 3\)"):
        gd.apply(net, params, x)
    with pytest.raises(gd.ShapeError, match=r"static must have shape \(2, 3\)"):
        gd.apply(net, params, x, static=static[:1])
    with pytest.raises(gd.DTypeError, match="static must have dtype float32"):
        gd.apply(net, params, x, static=static.astype(float))
    plain = gd.Stack(gd.GRU(2, 4))
    with pytest.raises(gd.ArgumentError, match="static must be None, because no layer"):
        gd.apply(plain, plain.init(), x, static=static)
    with pytest.raises(gd.ArgumentError, match="must not name 'static'"):
        gd.value_and_grad(
            plain, plain.init(), x, np.zeros((5, 2, 4), "float32"), loss="mse", wrt=("static",)
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_sequence_of_a_static_input_that_is_not_finite_is_named(bad):
    net, params, x, static = small()
    static[1, 2] = bad
    with pytest.raises(gd.NonFiniteError, match=r"static inputs of sequence 1.*number 2") as error:
        gd.apply(net, params, x, static=static)
    assert error.value.sequence == 1


def test_layers_must_read_the_same_static_inputs():
    with pytest.raises(gd.ShapeError, match="must have static_size 3, that of layer 0"):
        gd.Stack(gd.StaticInput(3, 2), gd.GRU(2, 4, initial_state="static", static_size=5))
    with pytest.raises(gd.ShapeError, match="features"):
        gd.Stack(gd.GRU(2, 4), gd.StaticInput(3, 5))


@pytest.mark.parametrize(
    "options", [{"initial_state": "static"}, {"static_size": 3}, {"static_size": 3, **LEARNED}]
)
def test_static_size_belongs_to_a_static_initial_state(options):
    with pytest.raises(gd.ArgumentError, match="static_size must be"):
        gd.LSTM(2, 4, **options)
    with pytest.raises(gd.ArgumentError, match="initial_state"):
        gd.LSTM(2, 4, initial_state="zero")


@pytest.mark.parametrize("options", [LEARNED, STATIC])
def test_resets_are_refused(options):
    net = gd.Stack(gd.LSTM(2, 4, **options))
    static = np.zeros((2, S), np.float32) if net.static_size else None
    with pytest.raises(gd.ArgumentError, match="reset must be None"):
        gd.apply(
            net,
            net.init(),
            np.zeros((5, 2, 2), np.float32),
            static=static,
            reset=np.zeros((5, 2), bool),
        )


def test_resets_are_as_ever_with_static_inputs_alone():
    net, params, x, static = small()
    reset = np.zeros((5, 2), bool)
    reset[3] = True
    whole = gd.apply(net, params, x, static=static, reset=reset)[0]
    np.testing.assert_array_equal(whole[3:], gd.apply(net, params, x[3:], static=static)[0])


def test_tokens_need_an_embedding():
    net, params, _, static = small()
    with pytest.raises(gd.DTypeError, match="starts with a StaticInput"):
        gd.apply(net, params, np.zeros((5, 2), np.int32), static=static)


# ---- the edges


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 3), (7, 1), (BLOCK, 2)])
def test_short_sequences_and_small_batches(name, steps, batch):
    case = case_of(name, steps=steps, batch=batch, ragged=False)
    value, params, static, *_ = case.by_reference()
    found = solve(case, threads=3)
    assert abs(found.loss - value) <= 20 * tolerances.DOUBLE * abs(value)
    floor = 1e-2 * norm(params.values())
    for n, a in params.items():
        assert error(found.grads[n], a, floor) <= 100 * tolerances.DOUBLE
    if case.net.static_size:
        assert error(found.dstatic, static) <= 100 * tolerances.DOUBLE


def test_sequences_without_steps_have_no_gradient_of_static():
    case = case_of("all")
    found = solve(case)
    empty = np.flatnonzero(case.lengths == 0)
    assert empty.size
    assert not found.dstatic[empty].any()
    assert found.dstatic[case.lengths > 0].all()


def test_behind_an_embedding():
    rng = np.random.default_rng(0)
    net = gd.Stack(
        gd.Embedding(11, 4), gd.StaticInput(S, 4), gd.GRU(4, 5, **STATIC), gd.Linear(5, 11)
    )
    params = net.init(seed=0, dtype="float64")
    x, static = rng.integers(11, size=(40, 3)), rng.standard_normal((3, S))
    along = rng.standard_normal(params.flat.size)

    def loss(step):
        moved = gd.Params(net, params.flat + step * along)
        return gd.value(net, moved, x, x, static=static * (1 + step), loss="cross_entropy")

    h = 5e-4
    differences = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    found = gd.value_and_grad(
        net, params, x, x, static=static, loss="cross_entropy", wrt=("params", "static")
    )
    exact = found.grads.flat @ along + np.vdot(found.dstatic, static)
    assert abs(differences - exact) <= 1e-9 * norm([found.grads.flat]) * norm([along])


def core_call(net, batch=2, steps=5, **arrays):
    """A call of the core that Python has not checked, which runs forward or also back."""
    back = "grads" in arrays
    schedule = Schedule((steps,) * core_parts(net), 1, 0, OpKind.BACKWARD if back else OpKind.EMIT)
    call = _core.Call(core_net(net, np.dtype("float32")), steps=steps, batch=batch)
    if back:
        call.loss("mse")
        arrays["target"] = np.zeros((steps, batch, net.output_size), np.float32)
    call.bind(
        params=net.init().flat,
        x=np.zeros((steps, batch, net.input_size), np.float32),
        outputs=np.zeros((steps, batch, net.output_size), np.float32),
        **arrays,
    )
    call.plan(schedule.ops(), segment_steps=steps, slots=0)
    call.run()


def core_parts(net):
    return core_net(net, np.dtype("float32")).n_parts


def test_the_core_refuses_what_does_not_fit():
    net = gd.Stack(gd.StaticInput(S, 2), gd.GRU(2, 4))
    static = np.zeros((2, S), np.float32)
    core_call(net, static=static)
    with pytest.raises(gd.ArgumentError, match=r"reads 3 static inputs .* statics is missing"):
        core_call(net)
    with pytest.raises(gd.ArgumentError, match=r"statics.gradient needs statics.exponent"):
        core_call(
            net, static=static, grads=np.zeros(net.n_parameters, np.float32), d_static=static.copy()
        )
    learned = gd.Stack(gd.GRU(2, 4, **LEARNED))
    core_call(learned)
    with pytest.raises(gd.ArgumentError, match="a reset sets the state to zero"):
        core_call(learned, reset=np.zeros((5, 2), bool))
    bad = [
        ({"kind": "static", "inputs": 3, "outputs": 5}, "must have as many outputs"),
        ({"kind": "static", "inputs": 0, "outputs": 2}, "statics must be in 1"),
    ]
    for options, says in bad:
        with pytest.raises(gd.ArgumentError, match=says):
            described(_core.Transform(before=0, place=0, **options))
    with pytest.raises(gd.ArgumentError, match="all must read the same"):
        described(
            *(
                _core.Transform(before=0, place=0, kind="static", inputs=n, outputs=2)
                for n in (3, 4)
            )
        )
    with pytest.raises(gd.ArgumentError, match="static_size is that of an initial state"):
        described(static_size=3, initial_state="learned")


def described(*transforms, **options):
    """A net of one layer as the core sees it."""
    return _core.Net(
        dtype="float32",
        embedding_rows=0,
        embedding_dim=0,
        layers=[_core.Layer(cell="gru", input_size=2, hidden_size=4, **options)],
        head_outputs=0,
        head_bias=False,
        transforms=list(transforms),
    )
