"""Layers that shorten time or look ahead: convolutions, pools, frames, beside PyTorch's."""

from itertools import pairwise

import numpy as np
import pytest

import gradcore as gd
from helpers.overriding import override

torch = pytest.importorskip("torch")

# Layers in front of 6 features behind 3; more than a block of 128 steps remains of T.
FRONTS = {
    "frames": lambda: [gd.Frames(2)],
    "same": lambda: [gd.Conv1d(3, 6, 5, padding="same", activation="tanh")],
    "same, even, dilated": lambda: [gd.Conv1d(3, 6, 4, dilation=3, padding="same")],
    "valid": lambda: [gd.Conv1d(3, 6, 4, stride=2, padding="valid", activation="gelu")],
    "valid, long": lambda: [gd.Conv1d(3, 6, 7, dilation=2, padding="valid")],
    "causal, stride": lambda: [gd.Conv1d(3, 6, 5, stride=3, activation="silu")],
    "gaps": lambda: [gd.Conv1d(3, 6, 2, stride=5, padding="same")],
    "groups": lambda: [gd.Conv1d(3, 6, 3, stride=2, groups=3, padding="same", bias=False)],
    "pointwise": lambda: [gd.Conv1d(3, 6, 1, stride=2)],
    "max": lambda: [gd.Dense(3, 6), gd.MaxPool1d(3, stride=2)],
    "max, same": lambda: [gd.Dense(3, 6), gd.MaxPool1d(4, stride=1, dilation=2, padding="same")],
    "mean": lambda: [gd.Dense(3, 6), gd.AvgPool1d(2)],
    "mean, causal": lambda: [gd.Dense(3, 6), gd.AvgPool1d(4, stride=3, padding="causal")],
    "several": lambda: [
        gd.Conv1d(3, 5, 5, padding="same", activation="relu"),
        gd.MaxPool1d(2),
        gd.LayerNorm(5),
        gd.Conv1d(5, 6, 3, dilation=2, padding="same", activation="tanh"),
        gd.AvgPool1d(3, stride=2, padding="same"),
    ],
    "with a causal one": lambda: [
        gd.Conv1d(3, 5, 4, activation="tanh"),
        gd.Conv1d(5, 6, 4, stride=2, padding="same"),
        gd.Conv1d(6, 6, 3, dilation=2, activation="tanh"),
    ],
}
# Recurrent layers behind them; the last also has a window between two of them.
BEHIND = {
    "one way": lambda: [gd.GRU(6, 5)],
    "both ways": lambda: [gd.LSTM(6, 4, bidirectional=True), gd.GRU(8, 5)],
    "between": lambda: [
        gd.GRU(6, 4, bidirectional=True),
        gd.MaxPool1d(2, padding="same"),
        gd.Conv1d(8, 5, 3, padding="same"),
        gd.GRU(5, 5, skip=gd.Skip(2, value=-0.4)),
    ],
}


def nets():
    for front in FRONTS:
        yield front, "one way"
    for front in ("same", "several", "causal, stride", "max, same", "with a causal one"):
        yield front, "both ways"
    for front in ("valid", "several"):
        yield front, "between"


def net_of(front, behind):
    return gd.Stack(*FRONTS[front](), *BEHIND[behind](), gd.Linear(5, 2))


def window(x, layer, before):
    """Rows x [L, I] of one sequence, padded by `before`, as torch's [1, I, L]."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    span = (kernel - 1) * dilation
    left = {"causal": span, "same": span // 2, "valid": 0}[layer.padding]
    rows = x.T[None]
    if layer.padding != "valid":
        steps = -(-len(x) // stride)
        behind = max(0, (steps - 1) * stride + span + 1 - left - len(x))
        rows = torch.nn.functional.pad(rows, (left, behind), value=before)
    return rows


def layer_of(layer, p, x):
    """A layer of rows x [L, I] of one sequence, by PyTorch."""
    functions = torch.nn.functional
    if isinstance(layer, gd.Frames):
        return x[: len(x) // layer.n * layer.n].reshape(len(x) // layer.n, layer.n * x.shape[1])
    if isinstance(layer, gd.Conv1d):
        z = functions.conv1d(
            window(x, layer, 0.0),
            p["weight"],
            p.get("bias"),
            layer.stride,
            0,
            layer.dilation,
            layer.groups,
        )[0].T
        name = layer.activation
        return z if name == "identity" else getattr(functions, name, getattr(torch, name, None))(z)
    if isinstance(layer, gd.MaxPool1d):
        z = functions.max_pool1d(
            window(x, layer, -np.inf), layer.kernel_size, layer.stride, 0, layer.dilation
        )[0].T
        return torch.where(torch.isinf(z), 0.0, z)
    if isinstance(layer, gd.AvgPool1d):
        pool = (layer.kernel_size, layer.stride)
        there = window(torch.ones_like(x), layer, 0.0)
        assert layer.dilation == 1
        return (
            functions.avg_pool1d(window(x, layer, 0.0), *pool) / functions.avg_pool1d(there, *pool)
        )[0].T
    if isinstance(layer, gd.LayerNorm):
        return functions.layer_norm(x, x.shape[1:], p["weight"], p["bias"], layer.eps)
    if isinstance(layer, (gd.Dense, gd.Linear)):
        return x @ p["weight"].T + p["bias"]
    return recurrent(layer, p, x)


def recurrent(layer, p, x):
    """One step after the other, so that there may be skip connections and no steps at all."""
    found = []
    for end in layer.directions:
        w_i, w_h, b_i, b_h = (
            p[f"{name}{end}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = c = x.new_zeros(layer.hidden_size)
        outputs = []
        for row in reversed(x) if end else x:
            i, r = w_i @ row + b_i, w_h @ h + b_h
            if isinstance(layer, gd.LSTM):
                gate = (i + r).chunk(4)
                c = gate[1].sigmoid() * c + gate[0].sigmoid() * gate[2].tanh()
                h = gate[3].sigmoid() * c.tanh()
            else:
                i, r = i.chunk(3), r.chunk(3)
                z = (i[1] + r[1]).sigmoid()
                h = (1 - z) * (i[2] + (i[0] + r[0]).sigmoid() * r[2]).tanh() + z * h
            if layer.skip is not None and len(outputs) >= layer.skip.lag:
                h = h + layer.skip.value * outputs[-layer.skip.lag]
            outputs.append(h)
        outputs = torch.stack(outputs) if outputs else x.new_zeros(0, layer.hidden_size)
        found.append(outputs.flip(0) if end else outputs)
    return torch.cat(found, 1)


def torch_net(net, params, x):
    """Outputs of one sequence x [L, I]; params: tensors by name."""
    for place, layer in enumerate(net.layers):
        own = {
            name.partition(".")[2]: value
            for name, value in params.items()
            if name.startswith(f"{place}.")
        }
        if len(x) < 1 or (
            getattr(layer, "padding", "") == "valid"
            and len(x) < (layer.kernel_size - 1) * layer.dilation + 1
        ):
            x = x.new_zeros(0, net.widths[place + 1])
        else:
            x = layer_of(layer, own, x)
    return x


def problem(net, steps, lengths, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    params = net.init(seed, dtype)
    params.flat[:] = rng.standard_normal(params.flat.size) * 0.5
    x = rng.standard_normal((steps, len(lengths), net.input_size)).astype(dtype)
    y = rng.standard_normal((net.output_steps(steps), len(lengths), 2)).astype(dtype)
    return params, x, y


def by_torch(net, params, x, y, pieces):
    """Outputs, gradients and dx of a sum of squares over pieces (b, start, stop) of sequences."""
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    z = torch.tensor(x, requires_grad=True)
    outputs, loss, places = np.zeros(y.shape, x.dtype), 0.0, {}
    for b, start, stop in pieces:
        if start == stop:
            continue
        made = torch_net(net, tensors, z[start:stop, b])
        first = places.get(b, 0)
        places[b] = first + len(made)
        outputs[first : places[b], b] = made.detach()
        loss = loss + ((made - torch.tensor(y[first : places[b], b])) ** 2).sum()
    loss.backward()
    grads = np.concatenate([value.grad.numpy().ravel() for value in tensors.values()])
    return outputs, float(loss.detach()), grads, z.grad.numpy()


def agrees(a, b, dtype="float64"):
    scale = max(1.0, np.abs(b).max())
    np.testing.assert_allclose(a, b, rtol=0, atol=scale * (1e-11 if dtype == "float64" else 2e-4))


SUM = gd.loss.MeanSquaredError(reduction="sum")


@pytest.mark.parametrize(("front", "behind"), list(nets()))
@pytest.mark.parametrize("ragged", [False, True])
def test_agrees_with_torch_sequence_by_sequence(front, behind, ragged):
    net = net_of(front, behind)
    steps = 157
    lengths = [157, 0, 5, 88, 1, 31] if ragged else [157, 157]
    params, x, y = problem(net, steps, lengths)
    pieces = [(b, 0, length) for b, length in enumerate(lengths)]
    outputs, loss, grads, dx = by_torch(net, params, x, y, pieces)
    given = {"lengths": lengths} if ragged else {}
    found = gd.value_and_grad(net, params, x, y, loss=SUM, wrt=("params", "x"), **given)
    applied, _ = gd.apply(net, params, x, **given)
    assert net.output_steps(steps) == len(applied)
    assert [int(n) for n in net.output_lengths(lengths)] == [
        net.output_steps(length) for length in lengths
    ]
    agrees(applied, outputs)
    agrees(found.loss, loss)
    agrees(found.grads.flat, grads)
    agrees(found.dx, dx)
    assert not found.dx_exponent.any()


def reset_front(front):
    # Windows of "max" are longer than their stride, which resets would cut.
    return [gd.Dense(3, 6), gd.MaxPool1d(2)] if front == "max" else FRONTS[front]()


CUT = ["frames", "same", "causal, stride", "max", "mean", "several", "gaps"]


def pieces_of(steps):
    """Resets (T, B) of two sequences, and the pieces between them."""
    cuts = {0: [0, 30, 60, 120, steps], 1: [0, 90, steps]}
    reset, pieces = np.zeros((steps, 2), bool), []
    for b, borders in cuts.items():
        reset[borders[1:-1], b] = True
        pieces += [(b, *pair) for pair in pairwise(borders)]
    return reset, pieces


@pytest.mark.parametrize("front", [front for front in CUT if front != "several"])
def test_resets_part_a_sequence_into_pieces(front):
    net = gd.Stack(*reset_front(front), gd.GRU(6, 5), gd.Linear(5, 2))
    params, x, y = problem(net, 150, [0, 0])
    reset, pieces = pieces_of(150)
    outputs, loss, grads, dx = by_torch(net, params, x, y, pieces)
    found = gd.value_and_grad(net, params, x, y, loss=SUM, wrt=("params", "x"), reset=reset)
    agrees(gd.apply(net, params, x, reset=reset)[0], outputs)
    agrees(found.loss, loss)
    agrees(found.grads.flat, grads)
    agrees(found.dx, dx)


# Four strides of two windows together, and a layer that reads time backward: its states are cut on
# the other side of the step.
@pytest.mark.parametrize("front", [*CUT, "causal, stride"])
def test_resets_go_to_layers_behind_the_windows(front):
    steps = 160
    layers = reset_front(front)
    strides = np.prod([getattr(layer, "stride", getattr(layer, "n", 1)) for layer in layers])
    whole = gd.Stack(*layers, *BEHIND["both ways"](), gd.Linear(5, 2))
    params, x, _ = problem(whole, steps, [0, 0])
    borders = {0: [0, 40, 80, steps], 1: [0, 120, steps]}
    if 40 % strides:
        borders = {0: [0, 45, 90, steps], 1: [0, 120, steps]}
    reset = np.zeros((steps, 2), bool)
    pieces = []
    for b, cuts in borders.items():
        reset[cuts[1:-1], b] = True
        pieces += [(b, *pair) for pair in pairwise(cuts)]
    tensors = {name: torch.tensor(value) for name, value in params.items()}
    rows = np.zeros((whole.output_steps(steps), 2, 6))
    places = [0, 0]
    front_net = gd.Stack(*layers, gd.GRU(6, 5))
    for b, start, stop in pieces:
        made = torch.tensor(x[start:stop, b])
        for place, layer in enumerate(front_net.layers[:-1]):
            own = {n.partition(".")[2]: v for n, v in tensors.items() if n.startswith(f"{place}.")}
            made = layer_of(layer, own, made)
        rows[places[b] : places[b] + len(made), b] = made
        places[b] += len(made)
    rest = gd.Stack(*BEHIND["both ways"](), gd.Linear(5, 2))
    own = gd.Params(rest, params.flat[-rest.n_parameters :])
    expected, _ = gd.apply(rest, own, rows, reset=reset[::strides].copy()[: len(rows)])
    agrees(gd.apply(whole, params, x, reset=reset)[0], expected)


@pytest.mark.parametrize(("front", "behind"), list(nets()))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_for_every_budget_and_thread_count(front, behind, dtype):
    net = net_of(front, behind)
    steps, lengths = 2900, [2900, 1203, 1, 2048]
    params, x, y = problem(net, steps, lengths, dtype=dtype)
    params.flat[:] *= 0.3
    options = {"loss": SUM, "wrt": ("params", "x"), "lengths": lengths}
    with pytest.raises(gd.MemoryBudgetError) as told:
        gd.value_and_grad(net, params, x, y, memory=1, **options)
    least = told.value.smallest
    results = []
    for memory, threads in (("full", 1), ("full", 2), (None, 3), (least, 1), (least + 5000, 2)):
        with override(exact_threads=True):
            r = gd.value_and_grad(net, params, x, y, memory=memory, threads=threads, **options)
        assert r.plan.budget is None or r.plan.bytes <= r.plan.budget
        results.append((r.loss, r.grads.flat.tobytes(), r.dx.tobytes(), r.dx_exponent.tobytes()))
    assert all(result == results[0] for result in results)


def tangents_of(net, x, params, seed=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(params.flat.size), rng.standard_normal(x.shape)


DERIVED = [
    ("same", "both ways"),
    ("valid", "one way"),
    ("causal, stride", "both ways"),
    ("max", "one way"),
    ("max, same", "both ways"),
    ("mean, causal", "one way"),
    ("frames", "one way"),
    ("several", "between"),
    ("with a causal one", "both ways"),
]


@pytest.mark.parametrize(("front", "behind"), DERIVED)
def test_tangents_are_finite_differences_and_their_transpose_is_the_gradient(front, behind):
    net = net_of(front, behind)
    steps, lengths = 300, [300, 171, 2]
    params, x, _ = problem(net, steps, lengths)
    v, dx = tangents_of(net, x, params)
    found = gd.jacobian.jvp(net, params, x, dparams=v[None], dx=dx[None], lengths=lengths)
    assert not found.d_outputs_exponent.any()
    eps = 1e-6

    def moved(factor):
        other = gd.Params(net, params.flat + factor * v)
        return gd.apply(net, other, x + factor * dx, lengths=lengths)[0]

    difference = (moved(eps) - moved(-eps)) / (2 * eps)
    np.testing.assert_allclose(found.d_outputs[0], difference, rtol=1e-6, atol=1e-6)
    d = np.random.default_rng(5).standard_normal(difference.shape)
    back = gd.jacobian.vjp(net, params, x, d_outputs=d[None], wrt=("params", "x"), lengths=lengths)
    there = float((found.d_outputs[0] * d).sum())
    here = float(back.grads[0].flat @ v + (back.dx[0] * dx).sum())
    assert abs(there - here) <= 1e-9 * max(1.0, abs(there))


@pytest.mark.parametrize(("front", "behind"), DERIVED)
def test_curvature_products(front, behind):
    net = net_of(front, behind)
    steps, lengths = 300, [300, 171, 2]
    params, x, y = problem(net, steps, lengths)
    params.flat[:] *= 0.5
    v, _ = tangents_of(net, x, params)
    eps = 1e-5

    def gradient(factor):
        other = gd.Params(net, params.flat + factor * v)
        return gd.value_and_grad(net, other, x, y, loss=SUM, lengths=lengths).grads.flat

    difference = (gradient(eps) - gradient(-eps)) / (2 * eps)
    flat = gd.jacobian.hvp(net, params, x, y, v[None], loss=SUM, lengths=lengths).product[0]
    scale = np.abs(difference).max()
    np.testing.assert_allclose(np.ravel(flat), difference, rtol=0, atol=1e-6 * scale)
    # The loss's own Hessian is twice the identity.
    moved = gd.jacobian.jvp(net, params, x, dparams=v[None], lengths=lengths).d_outputs[0]
    expected = gd.jacobian.vjp(
        net, params, x, d_outputs=2 * moved[None], wrt=("params",), lengths=lengths
    ).grads[0]
    product = gd.jacobian.gauss_newton_product(
        net, params, x, y, v[None], loss=SUM, lengths=lengths
    ).product
    agrees(product[0], expected.flat)


def test_gradients_beyond_the_range_of_the_dtype():
    net = gd.Stack(
        gd.RNN(2, 6, nonlinearity="identity"),
        gd.Conv1d(6, 6, 3, padding="same"),
        gd.MaxPool1d(2, stride=1, padding="same"),
        gd.RNN(6, 4, nonlinearity="identity"),
        gd.Linear(4, 1),
    )
    results = {}
    for dtype in ("float32", "float64"):
        params = net.init(1, "float64")
        for name in params:
            if "bias" in name:
                params[name][...] = 0.0
        params["3.weight_hh"] *= 1.3
        params["0.weight_hh"] *= 1.1
        params = gd.Params(net, params.flat.astype(dtype))
        x = np.zeros((640, 2, 2), dtype)
        y = np.ones((640, 2, 1), dtype)
        results[dtype] = gd.value_and_grad(net, params, x, y, loss="mse", wrt=("params", "x"))
    small, large = results["float32"], results["float64"]
    assert small.dx_exponent.max() > 100
    assert small.grads.exponent > 100
    true = large.dx * np.exp2(large.dx_exponent.astype(float))[:, None, None]
    found = small.dx.astype(float) * np.exp2(small.dx_exponent.astype(float))[:, None, None]
    np.testing.assert_allclose(found, true, rtol=1e-2)


def test_what_is_refused():
    net = net_of("valid, long", "one way")
    params, x, _ = problem(net, 40, [40])
    with pytest.raises(gd.ShapeError, match=r"T=12, 12 come to layer 0 \(Conv1d\)"):
        gd.apply(net, params, x[:12])
    with pytest.raises(gd.ArgumentError, match="cannot be cut by resets"):
        gd.apply(net, params, x, reset=np.zeros((40, 1), bool))
    with pytest.raises(gd.ShapeError, match=r"T=40 steps, of which Conv1d make 28"):
        gd.value_and_grad(net, params, x, np.zeros((40, 1, 2)), loss="mse")
    with pytest.raises(gd.ArgumentError, match=r"layer 0 \(Conv1d\)"):
        gd.Stepper(net, params)
    strided = net_of("several", "one way")
    params, x, _ = problem(strided, 40, [40])
    reset = np.zeros((40, 1), bool)
    reset[6] = True
    with pytest.raises(gd.ArgumentError, match=r"one step of 4, .* step 6, sequence 0"):
        gd.apply(strided, params, x, reset=reset)
    with pytest.raises(gd.ArgumentError, match="Residual"):
        gd.Stack(gd.Residual(gd.Conv1d(6, 6, 3, padding="same")), gd.GRU(6, 5))
    with pytest.raises(gd.ShapeError, match="multiple of 4"):
        gd.Stack(gd.Frames(4), gd.GRU(6, 5))
    tokens = gd.Stack(gd.Frames(2), gd.GRU(6, 5))
    with pytest.raises(gd.DTypeError, match="Frames"):
        gd.apply(tokens, tokens.init(), np.zeros((40, 1), np.int32))


def test_sequences_for_a_training():
    net = net_of("causal, stride", "both ways")
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, 3)).astype("float32") for n in (60, 7, 31)]
    y = [rng.standard_normal((net.output_steps(len(a)), 2)).astype("float32") for a in x]
    with pytest.raises(gd.ShapeError, match="pass output_lengths"):
        gd.data.Sequences(x, y, batch_size=3)
    with pytest.raises(gd.ShapeError, match="60 steps in x, of which output_lengths makes 20"):
        gd.data.Sequences(x, x, batch_size=3, output_lengths=net.output_lengths)
    source = gd.data.Sequences(
        x, y, batch_size=3, shuffle=False, weight=[1.0, 2.0, 0.5], output_lengths=net.output_lengths
    )
    batch = source.batch(0, 0)
    assert batch.y.shape == (20, 3, 2)
    assert batch.weight.shape == (20, 3)
    params = net.init()
    optimizer = gd.optim.Adam(params, lr=1e-2)
    report = gd.Trainer(net, params, optimizer, loss="mse").fit(source, epochs=3)
    assert report.losses[-1] < report.losses[0]
    with pytest.raises(gd.ArgumentError, match="without watch"):
        gd.Trainer(net, params, optimizer, loss="mse").fit(source, epochs=1, watch=1)
    assert gd.diagnose(net, params, batch.x, batch.y, loss="mse").measured.steps == 20
    text = str(net)
    assert "(T/3, B, 6)" in text
    assert gd.summary(net, steps=300, batch=2).layers[0].shape == (100, 2, 6)


def test_embedded_tokens():
    net = gd.Stack(
        gd.Embedding(7, 3),
        gd.Conv1d(3, 6, 5, stride=2, padding="same"),
        gd.GRU(6, 5),
        gd.Linear(5, 2),
    )
    rest = gd.Stack(*net.layers[1:])
    params = net.init(0, "float64")
    tokens = np.random.default_rng(0).integers(7, size=(300, 2))
    own = gd.Params(rest, params.flat[21:])
    x = params["0.weight"][tokens]
    y = np.random.default_rng(1).standard_normal((150, 2, 2))
    lengths = [300, 77]
    found = gd.value_and_grad(net, params, tokens, y, loss=SUM, lengths=lengths)
    expected = gd.value_and_grad(rest, own, x, y, loss=SUM, wrt=("params", "x"), lengths=lengths)
    agrees(found.grads.flat[21:], expected.grads.flat)
    table = np.zeros((7, 3))
    np.add.at(table, tokens, expected.dx)
    agrees(found.grads["0.weight"], table)
