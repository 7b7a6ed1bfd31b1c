"""The calls: what they return, which layouts they accept, and what they refuse with which
message.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd

T, B, I, O, V = 9, 3, 4, 5, 11
FLOAT_NET = gd.Stack(gd.LSTM(I, 7), gd.Linear(7, O))
TOKEN_NET = gd.Stack(gd.Embedding(V, I), gd.GRU(I, 7, skip=gd.Skip(2)), gd.Linear(7, O))
FLOAT, TOKEN = FLOAT_NET.init(seed=1), TOKEN_NET.init(seed=2)


def draw(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((T, B, I)).astype(dtype),
        "tokens": rng.integers(0, V, (T, B)),
        "classes": rng.integers(0, O, (T, B)),
        "values": rng.random((T, B, O)).astype(dtype),
        "weight": rng.random((T, B)).astype(dtype),
        "reset": rng.random((T, B)) < 0.2,
    }


D = draw()


def gradient(x=None, y=None, net=FLOAT_NET, params=FLOAT, loss="cross_entropy", **options):
    x = D["x"] if x is None else x
    y = D["classes"] if y is None else y
    return gd.value_and_grad(net, params, x, y, loss=loss, **options)


def same(a, b):
    """Whether everything in two results has the same bits."""
    assert a.loss == b.loss
    assert a.grads == b.grads
    for one, other in zip(a.state, b.state, strict=True):
        np.testing.assert_array_equal(one.h, other.h)


# ---- What comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_result_shapes(dtype):
    data = draw(dtype)
    params = FLOAT_NET.init(dtype=dtype)
    result = gradient(data["x"], params=params, wrt=("params", "x", "state"))
    assert isinstance(result.loss, float)
    assert result.grads.dtype == dtype
    assert result.grads.exponent == 0
    assert result.dx.shape == (T, B, I)
    assert result.dx_exponent.shape == (T,)
    (state,), (dstate,) = result.state, result.dstate
    assert state.h.shape == state.c.shape == dstate.h.shape == dstate.c.shape == (B, 7)
    assert state.skip is None
    assert result.dstate_exponent.shape == (1,)
    assert result.threads >= 1


def test_more_threads_than_a_machine_integer_holds():
    assert gradient(threads=2**63).loss == gradient(threads=1).loss


def test_only_what_is_wanted():
    result = gradient(wrt=("x",))
    assert result.grads is None
    assert result.dstate is None
    np.testing.assert_array_equal(result.dx, gradient(wrt=("params", "x")).dx)
    result = gradient(wrt={"params"})
    assert result.dx is None
    assert result.dx_exponent is None


def test_value_and_apply_agree_with_value_and_grad():
    data = draw(np.float64)
    params = TOKEN_NET.init(dtype="float64")
    masks = {"lengths": [T, 2, 0], "reset": data["reset"]}
    result = gradient(data["tokens"], data["classes"], TOKEN_NET, params, **masks)
    value = gd.value(
        TOKEN_NET, params, data["tokens"], data["classes"], loss="cross_entropy", **masks
    )
    assert value == result.loss
    outputs, state = gd.apply(TOKEN_NET, params, data["tokens"], **masks)
    assert outputs.shape == (T, B, O)
    assert not outputs[2:, 1].any()
    assert not outputs[:, 2].any()
    np.testing.assert_array_equal(state[0].skip, result.state[0].skip)
    logits = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    terms = [-logits[t, b, data["classes"][t, b]] for b in range(B) for t in range((T, 2, 0)[b])]
    assert value == pytest.approx(np.mean(terms), rel=1e-13)


def test_state_carries_on():
    outputs, _ = gd.apply(TOKEN_NET, TOKEN, D["tokens"])
    first, state = gd.apply(TOKEN_NET, TOKEN, D["tokens"][:4])
    second, _ = gd.apply(TOKEN_NET, TOKEN, D["tokens"][4:], state=state)
    np.testing.assert_array_equal(np.concatenate([first, second]), outputs)


def test_out_is_written_and_kept():
    fresh = gradient()
    out = gd.Grads(FLOAT_NET, np.full_like(FLOAT.flat, 7.0), exponent=99)
    result = gradient(out=out)
    assert result.grads is out
    assert out.exponent == fresh.grads.exponent == 0
    np.testing.assert_array_equal(out.flat, fresh.grads.flat)
    again = gradient()
    assert not np.shares_memory(again.grads.flat, fresh.grads.flat)


def test_nothing_given_is_changed():
    data = draw()
    kept = {name: array.copy() for name, array in data.items()}
    params = FLOAT.copy()
    state = gd.zero_state(FLOAT_NET, B)
    gradient(data["x"], data["classes"], params=params, weight=data["weight"], state=state)
    assert params == FLOAT
    assert not state[0].h.any()
    for name, array in data.items():
        np.testing.assert_array_equal(array, kept[name])


def test_a_mean_over_nothing_is_zero():
    result = gradient(lengths=np.zeros(B, int))
    assert result.loss == 0.0
    assert not result.grads.flat.any()


# ---- Layouts and sources that are accepted -------------------------------------------------------


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


class DLPackOnly:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class ArrayOnly:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize(
    "layout", [read_only, strided, unaligned, np.asfortranarray, memoryview, DLPackOnly, ArrayOnly]
)
def test_layouts(layout):
    masks = {"weight": D["weight"], "reset": D["reset"]}
    expected = gradient(**masks)
    result = gradient(
        layout(D["x"]), layout(D["classes"]), **{k: layout(v) for k, v in masks.items()}
    )
    same(result, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integer_dtypes(dtype):
    expected = gradient(D["tokens"], net=TOKEN_NET, params=TOKEN, lengths=[T, 1, 4])
    result = gradient(
        D["tokens"].astype(dtype),
        D["classes"].astype(dtype),
        TOKEN_NET,
        TOKEN,
        lengths=np.array([T, 1, 4], dtype),
    )
    same(result, expected)


def test_tokens_select_columns_without_an_embedding():
    net = gd.Stack(gd.LSTM(V, 7), gd.Linear(7, O))
    params = net.init(dtype="float64")
    one_hot = np.eye(V)[D["tokens"]]
    tokens = gradient(D["tokens"], net=net, params=params)
    dense = gradient(one_hot, net=net, params=params)
    assert tokens.loss == pytest.approx(dense.loss, rel=1e-14)
    np.testing.assert_allclose(tokens.grads.flat, dense.grads.flat, atol=1e-15)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    result = gradient(torch.from_numpy(D["x"]), torch.from_numpy(D["classes"]))
    same(result, gradient())
    with pytest.raises(gd.DTypeError, match=r"x must be in CPU memory and free of.*x\.detach"):
        gradient(torch.from_numpy(D["x"]).requires_grad_())


# ---- What is refused -----------------------------------------------------------------------------

NAN = np.float32("nan")


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = [
    # x
    (
        {"x": D["x"][0]},
        gd.ShapeError,
        r"x must have shape \(T, B, 4\), time first; got \(3, 4\)\. Add",
    ),
    ({"x": D["x"][..., :3]}, gd.ShapeError, r"x must have shape \(T, B, 4\).*got \(9, 3, 3\)"),
    ({"x": D["x"][:0]}, gd.ShapeError, "at least one step and one sequence; got T=0, B=3"),
    ({"x": D["x"][:, :0]}, gd.ShapeError, "at least one step and one sequence; got T=9, B=0"),
    (
        {"x": D["x"].astype(float)},
        gd.DTypeError,
        r"x must have dtype float32.*\.astype\('float32'\)",
    ),
    ({"x": D["x"].astype(np.float16)}, gd.DTypeError, "x must have dtype float32.*got float16"),
    ({"x": D["x"].astype(complex)}, gd.DTypeError, "x must have dtype float32.*got complex128"),
    ({"x": D["x"].astype(object)}, gd.DTypeError, "x must have dtype float32.*got object"),
    ({"x": D["x"].astype(">f4")}, gd.DTypeError, "x must be in the machine's byte order; got >f4"),
    ({"x": D["x"].tolist()}, gd.DTypeError, "x must be a NumPy array or support DLPack; got list"),
    ({"x": "text"}, gd.DTypeError, "x must be a NumPy array or support DLPack; got str"),
    (
        {"x": np.ma.masked_array(D["x"])},
        gd.DTypeError,
        "x must not be a masked array, because its mask would be lost",
    ),
    # y and weight
    ({"y": D["classes"][:-1]}, gd.ShapeError, r"y must have shape \(9, 3\).*got \(8, 3\)"),
    (
        {"y": D["classes"].T},
        gd.ShapeError,
        r"y must have shape.*Time comes first: pass its transpose",
    ),
    ({"y": D["values"]}, gd.DTypeError, "y must hold class indices as int64, int32 or uint8"),
    ({"y": D["classes"].astype(np.int16)}, gd.DTypeError, "y must hold class indices.*got int16"),
    (
        {"y": with_value(D["classes"], (4, 2), O)},
        gd.ArgumentError,
        "classes in 0..4 or ignore_index",
    ),
    ({"y": with_value(D["classes"], (0, 0), -1)}, gd.ArgumentError, "sequence 0, step 0 has -1"),
    ({"weight": D["weight"].T}, gd.ShapeError, r"weight must have shape \(9, 3\)"),
    ({"weight": D["weight"].astype(float)}, gd.DTypeError, "weight must have dtype float32"),
    ({"weight": with_value(D["weight"], (1, 1), NAN)}, gd.ArgumentError, "weight must be finite"),
    # masks
    (
        {"lengths": [T, T]},
        gd.ShapeError,
        r"lengths must have shape \(3,\), one length per sequence",
    ),
    (
        {"lengths": [1, -1, 2]},
        gd.ArgumentError,
        r"lengths must be in 0\.\.T = 0\.\.9; lengths\[1\] is -1",
    ),
    ({"lengths": [1, 2, T + 1]}, gd.ArgumentError, r"lengths\[2\] is 10"),
    ({"lengths": [1.0, 2.0, 3.0]}, gd.DTypeError, "lengths must be integers; got float64"),
    ({"lengths": [True, True, True]}, gd.DTypeError, "lengths must be integers; got bool"),
    ({"lengths": 3}, gd.DTypeError, "lengths must be a NumPy array or support DLPack; got int"),
    ({"reset": D["reset"][0]}, gd.ShapeError, r"reset must have shape \(9, 3\)"),
    (
        {"reset": D["reset"].astype(np.uint8)},
        gd.DTypeError,
        "reset must have dtype bool; got uint8",
    ),
    # options
    ({"loss": "hinge"}, gd.ArgumentError, "loss must be one of 'cross_entropy', 'binary_cross"),
    ({"loss": None}, gd.DTypeError, "loss must be 'cross_entropy'"),
    ({"wrt": ()}, gd.ArgumentError, "wrt must name one or more of"),
    ({"wrt": ("params", "z")}, gd.ArgumentError, "wrt must name one or more of"),
    ({"memory": -1}, gd.ArgumentError, "memory must be None, 'full', a positive number"),
    ({"memory": "1kB"}, gd.MemoryBudgetError, "memory must be at least"),
    ({"threads": 0}, gd.ArgumentError, "threads must be at least 1; got 0"),
    ({"threads": 1.5}, gd.DTypeError, "threads must be an integer"),
    ({"out": np.zeros(3)}, gd.DTypeError, r"out must be the gradcore\.Grads of an earlier call"),
    ({"out": gd.Grads(TOKEN_NET, TOKEN.flat)}, gd.ShapeError, "out must be laid out like params"),
    (
        {"out": gd.Grads(FLOAT_NET, FLOAT.flat)},
        gd.ArgumentError,
        "must not share memory with params",
    ),
    # net and params
    ({"net": "net"}, gd.DTypeError, r"net must be a gradcore\.Stack; got str"),
    ({"params": FLOAT.flat}, gd.DTypeError, r"params must be gradcore\.Params.*got ndarray"),
    ({"params": TOKEN}, gd.ShapeError, "params must belong to the net of the call"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input(arguments, error, message):
    before = FLOAT.copy()
    with pytest.raises(error, match=message):
        gradient(**arguments)
    assert before == FLOAT


BAD_TOKENS = [
    ({"x": D["x"]}, gd.DTypeError, "x must hold integer tokens.*net starts with an Embedding"),
    ({"x": D["tokens"][0]}, gd.ShapeError, r"integer x must have shape \(T, B\).*x\[:, None\]"),
    ({"x": D["tokens"].astype(np.int16)}, gd.DTypeError, "must have dtype uint8, int32 or int64"),
    ({"x": D["tokens"].astype(bool)}, gd.DTypeError, "x must hold integer tokens.*got bool"),
    ({"x": with_value(D["tokens"], (3, 1), V)}, gd.ArgumentError, r"0\.\.10; x\[3, 1\] = 11"),
    ({"x": with_value(D["tokens"], (8, 2), -1)}, gd.ArgumentError, r"x\[8, 2\] = -1"),
    (
        {"x": D["tokens"], "wrt": ("x",)},
        gd.ArgumentError,
        "x holds integer tokens, which have no gradient",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_TOKENS)
def test_bad_tokens(arguments, error, message):
    with pytest.raises(error, match=message):
        gradient(net=TOKEN_NET, params=TOKEN, **arguments)


H = np.zeros((B, 7), np.float32)
BAD_STATES = [
    ((), gd.ShapeError, "one LayerState per recurrent layer, 1 of them; got 0"),
    (H, gd.DTypeError, "state must be a tuple.*got ndarray"),
    ((H,), gd.DTypeError, "state must be a tuple"),
    ((gd.LayerState(H[:2], H),), gd.ShapeError, r"state\[0\]\.h must have shape \(3, 7\); got \(2"),
    ((gd.LayerState(H, H.astype(float)),), gd.DTypeError, r"state\[0\]\.c must have dtype float32"),
    (
        (gd.LayerState(H),),
        gd.ArgumentError,
        r"state\[0\]\.c must be an array \(B, H\) for this LSTM",
    ),
    ((gd.LayerState([0.0], H),), gd.DTypeError, r"state\[0\]\.h must be a NumPy array; got list"),
    ((gd.LayerState(H, H, H[None]),), gd.ArgumentError, r"state\[0\]\.skip must be None for this"),
]


@pytest.mark.parametrize(("state", "error", "message"), BAD_STATES)
def test_bad_states(state, error, message):
    with pytest.raises(error, match=message):
        gradient(state=state)


def test_bad_skip_states():
    skip = np.zeros((2, B, 7), np.float32)
    with pytest.raises(gd.ArgumentError, match=r"skip must be an array \(2, B, H\) for this GRU"):
        gd.apply(TOKEN_NET, TOKEN, D["tokens"], state=(gd.LayerState(H),))
    with pytest.raises(gd.ArgumentError, match=r"state\[0\]\.c must be None for this GRU"):
        gd.apply(TOKEN_NET, TOKEN, D["tokens"], state=(gd.LayerState(H, H, skip),))
    with pytest.raises(gd.ArgumentError, match=r"skip\[-1\] and state\[0\]\.h must be equal"):
        gd.apply(TOKEN_NET, TOKEN, D["tokens"], state=(gd.LayerState(H + 1, None, skip),))


def test_read_only_out_is_refused():
    out = gd.Grads(FLOAT_NET, np.zeros_like(FLOAT.flat))
    out.flat.flags.writeable = False
    with pytest.raises(gd.ArgumentError, match="out must be writeable"):
        gradient(out=out)


def test_y_is_needed():
    with pytest.raises(gd.ArgumentError, match="y must be given for loss 'cross_entropy'"):
        gd.value_and_grad(FLOAT_NET, FLOAT, D["x"], loss="cross_entropy")


# ---- Values that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("call", [gradient, lambda x: gd.apply(FLOAT_NET, FLOAT, x)])
def test_non_finite_input_is_located(call, bad):
    x = with_value(D["x"], (5, 2, 1), bad)
    with pytest.raises(gd.NonFiniteError, match="layer 0, step 5, sequence 2") as caught:
        call(x)
    assert (caught.value.layer, caught.value.step, caught.value.sequence) == (0, 5, 2)


def test_non_finite_padding_is_never_looked_at():
    lengths = [T, 4, 0]
    x, y, weight = D["x"].copy(), D["values"].copy(), D["weight"].copy()
    expected = gradient(x, y, loss="mse", lengths=lengths, wrt=("params", "x"))
    for b, length in enumerate(lengths):
        x[length:, b] = np.nan
        y[length:, b] = np.inf
        weight[length:, b] = 1e30
    result = gradient(x, y, loss="mse", lengths=lengths, wrt=("params", "x"))
    same(result, expected)
    assert not result.dx[4:, 1].any()
    assert not result.dx[:, 2].any()


def test_overflow_is_located():
    net = gd.Stack(gd.RNN(I, 7, nonlinearity="identity"), gd.Linear(7, O))
    params = net.init(recurrent="identity", gain=1e10)
    with pytest.raises(gd.NonFiniteError, match="recurrent layer 0, step 4") as caught:
        gd.apply(net, params, D["x"])
    assert caught.value.step == 4
    assert isinstance(caught.value, ArithmeticError)


def test_non_finite_targets_are_located():
    with pytest.raises(gd.NonFiniteError, match="step 6, sequence 1") as caught:
        gradient(y=with_value(D["values"], (6, 1, 0), np.nan), loss="mse")
    assert caught.value.layer == 1


def test_memory_that_the_system_refuses():
    net = gd.Stack(gd.RNN(1, 128, skip=gd.Skip(2**24)))
    x = np.zeros((1, 2**15, 1), np.float32)
    y = np.zeros((1, 2**15, 128), np.float32)
    # The outputs of the past would take 281 TB, more than an address space has.
    with pytest.raises(gd.OutOfMemoryError) as caught:
        gd.value(net, net.init(), x, y, loss="mse", memory="full")
    assert isinstance(caught.value, MemoryError)


def test_bare_tokens_with_a_residual_first_layer():
    net = gd.Stack(gd.RNN(V, V, residual=True))
    with pytest.raises(gd.ArgumentError, match="residual"):
        gd.apply(net, net.init(), D["tokens"])


@pytest.mark.parametrize("gain", [2.0, 0.25])
def test_gradients_beyond_the_range_carry_an_exponent(gain):
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity", bias=False))
    params = net.init(recurrent="identity", gain=gain, seed=1)
    steps = 600
    x = np.zeros((steps, 1, 1), np.float32)
    x[0 if gain < 1 else -1] = 1.0
    y = np.ones((1, 4), np.float32)
    loss = gd.loss.MeanSquaredError(step="last")
    result = gd.value_and_grad(
        net, params, x, y, loss=loss, wrt=("params", "x", "state"), memory="full"
    )
    (dstate,) = result.dstate
    outputs, _ = gd.apply(net, params, x)
    adjoint = 2 * (outputs[-1, 0].astype(np.float64) - 1) / 4
    # dh_0 = gain**steps * d_output is far outside float32.
    exponent = result.dstate_exponent[0]
    log2 = np.log2(np.abs(dstate.h[0].astype(np.float64))) + exponent
    np.testing.assert_allclose(log2, np.log2(np.abs(adjoint)) + steps * np.log2(gain), atol=1e-4)
    assert np.isfinite(result.grads.flat).all()
    assert np.isfinite(result.dx).all()
    weight = params["0.weight_ih"][:, 0].astype(np.float64)
    expected = weight @ adjoint * np.sign(adjoint @ weight)
    for t in (0, 17, steps - 1):
        log2 = np.log2(np.abs(np.float64(result.dx[t, 0, 0]))) + result.dx_exponent[t]
        power = (steps - 1 - t) * np.log2(gain)
        assert log2 == pytest.approx(np.log2(expected) + power, abs=1e-4)
