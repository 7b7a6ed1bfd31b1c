"""reset= of the layers of gradcore.torch, against loops over cells of PyTorch and against the NumPy
engine.
"""

import numpy as np
import pytest

import gradcore as gd
import tolerances

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap  # noqa: E402
from torch.nn.utils import rnn as packing  # noqa: E402

import gradcore.torch as gt  # noqa: E402

# Forward mode of PyTorch 2.13 calls torch.jit.script for its own formulas.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

KINDS = ("RNN", "LSTM", "GRU", "AntisymmetricRNN")
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def antisymmetric_cell(x, h, weight_ih, weight_hh, bias_ih, bias_hh, step=0.01, diffusion=0.01):
    recurrent = weight_hh - weight_hh.t() - diffusion * torch.eye(len(weight_hh), dtype=x.dtype)
    return h + step * torch.tanh(x @ weight_ih.t() + bias_ih + h @ recurrent.t() + bias_hh)


CELLS = {  # those of torch.nn's cells take their weights
    "RNN": torch.rnn_tanh_cell,
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "AntisymmetricRNN": antisymmetric_cell,
}
T, B, I, H = 12, 3, 4, 5
LENGTHS = (T, 7, 1)


def flags(first=True):
    """Resets at the first step, twice in a row, after an end, and none in the last sequence."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[[3, 4, 9], 0] = True
    reset[[5, 8], 1] = True
    reset[0, 0] = first
    return reset


def layer_of(kind, *, layers=1, bidirectional=False, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return getattr(gt, kind)(I, H, layers, bidirectional=bidirectional, dtype=dtype, **options)


def point(kind, layer, dtype=torch.float64):
    """x, and h_0 or (h_0, c_0)."""
    torch.manual_seed(1)
    rows = layer.num_layers * (1 + layer.bidirectional)
    lag = layer.skip.lag if layer.skip else 1
    first = (rows, lag, B, H) if lag > 1 else (rows, B, H)
    h, c = torch.randn(first, dtype=dtype), torch.randn(rows, B, H, dtype=dtype)
    return torch.randn(T, B, I, dtype=dtype), ((h, c) if kind == "LSTM" else h)


def listed(states):
    return list(states) if isinstance(states, tuple) else [states]


def by_cells(kind, weights, x, hx, reset, *, layers, bidirectional, lengths):
    """Outputs and last states by cells, one step of one sequence after the other."""
    directions = ("", "_reverse")[: 1 + bidirectional]
    state = listed(hx)
    signal, ends = x, [[] for _ in state]
    for layer in range(layers):
        outputs = []
        for place, end in enumerate(directions):
            own = [weights[f"{name}_l{layer}{end}"] for name in NAMES]
            row = layer * len(directions) + place
            columns, lasts = [], []
            for b, length in enumerate(lengths):
                now = [s[row, b : b + 1] for s in state]
                found = {}
                order = range(length)
                for t in reversed(order) if end else order:
                    if reset[t, b]:
                        now = [torch.zeros_like(s) for s in now]
                    given = tuple(now) if kind == "LSTM" else now[0]
                    now = listed(CELLS[kind](signal[t, b : b + 1], given, *own))
                    found[t] = now[0][0]
                zero = torch.zeros(H, dtype=x.dtype)
                columns.append(torch.stack([found.get(t, zero) for t in range(len(x))]))
                lasts.append([s[0] for s in now])
            outputs.append(torch.stack(columns, 1))
            for kept, all_of_one in zip(ends, zip(*lasts, strict=True), strict=True):
                kept.append(torch.stack(all_of_one))
        signal = torch.cat(outputs, 2)
    return signal, [torch.stack(kept) for kept in ends]


def solved(run, weights, x, hx):
    """Outputs, last states and the gradients of one loss by everything."""
    leaves = [x, *listed(hx), *weights.values()]
    outputs, end = run()
    end = listed(end) if not isinstance(end, list) else end
    loss = outputs.sin().sum() + sum((state**3).sum() for state in end)
    return [outputs, *end, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "lengths"),
    [(1, False, None), (2, False, LENGTHS), (1, True, None), (2, True, LENGTHS)],
)
def test_a_loop_of_cells_gives_the_same(kind, layers, bidirectional, lengths):
    layer = layer_of(kind, layers=layers, bidirectional=bidirectional)
    x, hx = point(kind, layer)
    leaf = x.requires_grad_()
    for state in listed(hx):
        state.requires_grad_()
    weights = dict(layer.named_parameters())
    reset = flags()
    found = solved(lambda: layer(leaf, hx, lengths=lengths, reset=reset), weights, leaf, hx)
    expected = solved(
        lambda: by_cells(
            kind,
            weights,
            leaf,
            hx,
            reset,
            layers=layers,
            bidirectional=bidirectional,
            lengths=lengths or (T,) * B,
        ),
        weights,
        leaf,
        hx,
    )
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        error = (one - other).norm() / other.norm()
        assert not other.norm() or error <= 10 * tolerances.DOUBLE, (one.shape, error)
    plain = solved(lambda: layer(leaf, hx, lengths=lengths), weights, leaf, hx)
    assert not torch.allclose(plain[0], found[0])  # the resets make a difference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numpy_engine_gives_the_same_bits(kind, dtype):
    layer = layer_of(kind, layers=2, dtype=dtype, skip=gd.Skip(2, learned=True))
    x, hx = point(kind, layer, dtype)
    x.requires_grad_()
    reset = flags()
    outputs, end = layer(x, hx, reset=reset)
    given = torch.randn_like(outputs)
    outputs.backward(given)
    params, states = gt.params_of(layer), listed(hx)
    own = tuple(
        gd.LayerState(
            h=states[0][n, -1].numpy(),
            skip=states[0][n].numpy(),
            c=states[1][n].numpy() if kind == "LSTM" else None,
        )
        for n in range(2)
    )
    expected = gd.value_and_grad(
        layer.stack(),
        params,
        x.detach().numpy(),
        given.numpy(),
        loss=gd.loss.Given(),
        reset=reset.numpy(),
        state=own,
        wrt=("params", "x"),
    )
    np.testing.assert_array_equal(x.grad.numpy(), expected.dx)
    for name, array in zip(layer.parameter_names(), expected.grads.values(), strict=True):
        np.testing.assert_array_equal(getattr(layer, name).grad.numpy(), array)
    np.testing.assert_array_equal(listed(end)[0][1].detach().numpy(), expected.state[1].skip)
    alone, _ = gd.apply(layer.stack(), params, x.detach().numpy(), reset=reset.numpy(), state=own)
    np.testing.assert_array_equal(outputs.detach().numpy(), alone)
    with torch.no_grad():
        np.testing.assert_array_equal(layer(x, hx, reset=reset)[0].numpy(), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_is_the_start_of_a_new_sequence(kind):
    layer = layer_of(kind, layers=2)
    x, hx = point(kind, layer)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[5] = True
    whole, end = layer(x, hx, reset=reset)
    first, _ = layer(x[:5], hx)
    second, last = layer(x[5:])
    assert torch.equal(whole, torch.cat([first, second]))
    for one, other in zip(listed(end), listed(last), strict=True):
        assert torch.equal(one, other)


def test_the_shape_is_that_of_the_input_without_its_last_axis():
    plain, first = layer_of("GRU"), layer_of("GRU", batch_first=True)
    x, hx = point("GRU", plain)
    reset = flags()
    expected, end = plain(x, hx, reset=reset)
    for given in (reset.t(), reset.t().tolist(), reset.t().contiguous().numpy()):
        outputs, last = first(x.transpose(0, 1), hx, reset=given)
        assert torch.equal(outputs, expected.transpose(0, 1))
        assert torch.equal(last, end)
    for layer in (plain, first):
        outputs, last = layer(x[:, 1], hx[:, 1], reset=reset[:, 1])
        torch.testing.assert_close(outputs, expected[:, 1])
        torch.testing.assert_close(last, end[:, 1])
    nothing = plain(x[:, :0], hx[:, :0], reset=reset[:, :0])[0]
    assert nothing.shape == (T, 0, H)


def test_a_mask_that_changes_after_the_forward_pass_does_not_change_the_gradient():
    layer = layer_of("LSTM")
    x, hx = point("LSTM", layer)
    found = []
    for change in (False, True):
        layer.zero_grad()
        reset, lengths = flags(), torch.tensor(LENGTHS)
        outputs, _ = layer(x, hx, reset=reset, lengths=lengths)
        if change:
            reset.fill_(True)
            lengths.fill_(1)
        outputs.sin().sum().backward()
        found.append([weight.grad.clone() for weight in layer.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# ---- derivatives


@pytest.mark.parametrize(
    ("kind", "options", "lengths"),
    [
        ("RNN", {}, None),
        ("LSTM", {"layers": 2}, None),
        ("GRU", {"bidirectional": True}, [5, 3]),
        ("LSTM", {"skip": gd.Skip(2, learned=True), "bias": False}, [5, 3]),
    ],
)
def test_first_and_second_derivatives_by_differences(kind, options, lengths):
    layer = layer_of(kind, **options)
    x, hx = point(kind, layer)
    x, hx = x[:5, :2], [state[..., :2, :].clone() for state in listed(hx)]
    reset = torch.tensor([[0, 1], [0, 0], [1, 0], [1, 0], [0, 1]], dtype=torch.bool)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *rest):
        given, weights = rest[: len(hx)], rest[len(hx) :]
        outputs, end = functional_call(
            layer,
            dict(zip(names, weights, strict=True)),
            (x, given if kind == "LSTM" else given[0]),
            {"lengths": lengths, "reset": reset},
        )
        return (outputs, *listed(end))

    leaves = tuple(leaf.detach().requires_grad_() for leaf in (x, *hx, *layer.parameters()))
    assert gradcheck(run, leaves, check_forward_ad=True)
    assert gradgradcheck(run, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_transforms_of_torch_func(transform):
    layer = layer_of("LSTM")
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}
    x, hx = point("LSTM", layer)
    reset = flags()

    def ours(x):
        masks = {"reset": reset, "lengths": LENGTHS}
        outputs, _ = functional_call(layer, weights, (x, hx), masks)
        return outputs.pow(3).sum() if transform is hessian else outputs

    def theirs(x):
        outputs, _ = by_cells(
            "LSTM",
            weights,
            x,
            hx,
            reset,
            layers=1,
            bidirectional=False,
            lengths=LENGTHS,
        )
        return outputs.pow(3).sum() if transform is hessian else outputs

    torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))


def test_vmap_over_samples_with_the_same_resets():
    layer = layer_of("GRU")
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}
    x, _ = point("GRU", layer)
    reset = flags()[:, 0]

    def loss(weights, one, reset):
        return functional_call(layer, weights, (one,), {"reset": reset})[0].sin().sum()

    each = vmap(grad(loss), in_dims=(None, 1, None))(weights, x, reset)
    for b in range(B):
        alone = grad(loss)(weights, x[:, b], reset)
        for name, value in alone.items():
            torch.testing.assert_close(each[name][b], value)


# ---- compiled


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("batch_first", [False, True])
def test_compiled_as_one_operator(batch_first):
    torch._dynamo.reset()
    layer = layer_of("LSTM", layers=2, batch_first=batch_first)
    x, hx = point("LSTM", layer)
    reset = flags()
    if batch_first:
        x, reset = x.transpose(0, 1), reset.t()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for one in (layer, compiled):
        layer.zero_grad()
        outputs, (h, _) = one(x, hx, lengths=LENGTHS, reset=reset)
        (outputs.pow(2).sum() + h.sin().sum()).backward()
        found.append([outputs.detach(), h.detach(), *(w.grad for w in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    # Other flags of the same shape need no other graph.
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(
            compiled(x, hx, lengths=LENGTHS, reset=~reset)[0],
            layer(x, hx, lengths=LENGTHS, reset=~reset)[0],
        )


def test_the_operator_is_what_it_says():
    from gradcore.torch import _compiled

    layer = layer_of("RNN")
    flat = torch.cat([weight.detach().reshape(-1) for weight in layer.parameters()])
    x, hx = point("RNN", layer)
    tensors = (flat.requires_grad_(), x.requires_grad_(), hx.flatten().requires_grad_())
    torch.library.opcheck(
        _compiled.layer, (*tensors, None, flags(), None, "", *layer._description())
    )


# ---- errors


def test_what_is_refused():
    layer, first = layer_of("LSTM"), layer_of("LSTM", batch_first=True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    with pytest.raises(
        gd.ShapeError, match=r"reset must have shape \(T, B\) = \(12, 3\).*\(3, 12\)"
    ):
        layer(x, reset=flags().t())
    with pytest.raises(
        gd.ShapeError, match=r"reset must have shape \(B, T\) = \(3, 12\).*\(12, 3\)"
    ):
        first(x.transpose(0, 1), reset=flags())
    with pytest.raises(gd.ShapeError, match=r"reset must have shape \(T,\) = \(12,\).*\(12, 3\)"):
        layer(x[:, 0], reset=flags())
    with pytest.raises(gd.ShapeError, match=r"\(12, 0\), one flag"):
        layer(x[:, :0], reset=flags())
    for wrong in (flags().int(), flags().double(), [[1] * B] * T):
        with pytest.raises(gd.DTypeError, match=r"reset must be boolean; got torch\."):
            layer(x, reset=wrong)
    with pytest.raises(gd.ArgumentError, match=r"reset must be on the CPU.* got meta"):
        layer(x, reset=flags().to("meta"))
    with pytest.raises(gd.ArgumentError, match=r"lengths must be on the CPU.* got meta"):
        layer(x, lengths=torch.tensor(LENGTHS, device="meta"))
    packed = packing.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    with pytest.raises(gd.ArgumentError, match=r"reset must be None for a PackedSequence.*padded"):
        layer(packed, reset=flags())


# ---- diagnosis


def test_a_diagnosis_sees_the_resets():
    layer = layer_of("RNN")
    x, _ = point("RNN", layer)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[6] = True
    found = gt.diagnose(layer, lambda: layer(x, reset=reset)[0][-1].sum())[""].measured
    assert np.isneginf(found.reach[0].norm_log10[:6]).all()
    assert np.isfinite(found.reach[0].norm_log10[6:]).all()
    assert "resets" in found.left_out["lyapunov"]
