"""Proved bounds hold for measured Jacobians, and norms of convolutions agree with dense
matrices.
"""

import itertools

import numpy as np
import pytest

import gradcore as gd
from gradcore import constrain

NETS = {
    "tanh": gd.RNN(3, 12),
    "relu": gd.RNN(3, 12, nonlinearity="relu"),
    "add": gd.RNN(3, 12, skip=gd.Skip(3, value=-0.4)),
    "add learned": gd.RNN(3, 12, skip=gd.Skip(2, value=0.3, learned=True)),
    "mix": gd.RNN(3, 12, skip=gd.Skip(4, kind="mix", value=0.3)),
    "mix learned": gd.RNN(3, 12, skip=gd.Skip(2, kind="mix", value=0.6, learned=True)),
    "zoneout": gd.RNN(3, 12, zoneout=0.2),
    "antisymmetric": gd.AntisymmetricRNN(3, 12, step=0.1, diffusion=0.05),
    "antisymmetric, large step": gd.AntisymmetricRNN(3, 12, step=1.0, diffusion=0.3),
    "antisymmetric, mix": gd.AntisymmetricRNN(
        3, 12, step=0.2, skip=gd.Skip(3, kind="mix", value=0.4)
    ),
}


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("name", NETS)
def test_the_bound_holds(name, gain):
    net = gd.Stack(NETS[name])
    params = net.init(seed=1, dtype="float64", gain=gain)
    rng = np.random.default_rng(2)
    for key in params:
        if "skip" in key:  # each unit has its own scale
            params[key] += 0.3 * rng.standard_normal(params[key].shape)
    x = 0.3 * rng.standard_normal((60, 2, 3))
    lag = net.recurrent[0].lag
    for steps in (1, 7, 60):
        made = gd.jacobian.state_jacobian(net, params, x[:steps])
        # Measured is the Jacobian of the last output by the output before the first step, over all
        # paths.
        block = made.mantissa[:, -12:, (lag - 1) * 12 :]
        measured = np.log10(np.linalg.norm(block, 2, axis=(1, 2))) + made.exponent * np.log10(2.0)
        assert (measured <= constrain.jacobian_bound(net, params, steps) + 1e-9).all()


def test_the_bound_is_reached_by_a_linear_chain_and_far_beyond_float32():
    net = gd.Stack(gd.RNN(1, 5, nonlinearity="identity", skip=gd.Skip(2, value=0.5)))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 0.25 * np.eye(5)
    x = np.zeros((5000, 1, 1), np.float32)
    reach = gd.horizon.reach(net, params, x, probes=1)
    grown = reach.norm_log10[0, 0] - reach.norm_log10[-1, 0]
    assert grown < -300
    assert constrain.jacobian_bound(net, params, 4999) == pytest.approx(grown, rel=1e-5)


def test_an_antisymmetric_net_neither_dies_nor_explodes_at_once():
    """Over 200 small steps the state rotates: gradients keep their size, and the bound says so."""
    net = gd.Stack(gd.AntisymmetricRNN(3, 16, step=0.01, diffusion=0.0))
    params = net.init(seed=0, dtype="float64")
    x = 0.1 * np.random.default_rng(0).standard_normal((200, 1, 3))
    logs = gd.jacobian.state_singular_values(net, params, x, [200])
    assert np.abs(logs).max() < 0.2
    assert 0 < constrain.jacobian_bound(net, params, 200) < 2
    wrong = gd.Params(net, params.flat.copy())
    wrong["0.weight_hh"] += wrong["0.weight_hh"].T  # symmetric parts do not count
    assert constrain.jacobian_bound(net, wrong, 200) == pytest.approx(0, abs=1e-6)


def test_a_layer_of_a_stack_has_its_own_bound():
    net = gd.Stack(gd.RNN(3, 8), gd.RNN(8, 8), gd.Linear(8, 2))
    params = net.init(seed=0, dtype="float64", gain=0.9)
    params["1.weight_hh"][...] *= 0.5
    bounds = [constrain.jacobian_bound(net, params, 100, layer=layer) for layer in (0, -1)]
    np.testing.assert_allclose(bounds, [100 * np.log10(0.9), 100 * np.log10(0.45)], rtol=1e-6)


def test_along_a_trajectory_the_norms_bound_the_product():
    net = gd.Stack(gd.LSTM(3, 6), gd.GRU(6, 5))
    params = net.init(seed=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((40, 2, 3))
    made = gd.jacobian.state_jacobian(net, params, x)
    bound = constrain.trajectory_bound(net, params, x, points=40)
    product = np.linalg.norm(made.mantissa, 2, axis=(1, 2))
    assert (np.log10(product) + made.exponent * np.log10(2.0) <= bound).all()


def test_what_has_no_proof_is_refused():
    net = gd.Stack(gd.RNN(3, 4), gd.GRU(4, 4))
    params = net.init(seed=0)
    with pytest.raises(gd.ArgumentError, match=r"1\.GRU is not one of these\. Use constrain\.traj"):
        constrain.jacobian_bound(net, params, 10, layer=1)
    with pytest.raises(gd.ArgumentError, match="layer must be one of the net's 2"):
        constrain.jacobian_bound(net, params, 10, layer=2)
    with pytest.raises(gd.ArgumentError, match="steps must be"):
        constrain.jacobian_bound(net, params, 0)


# ---- convolutions


def dense(kernel, shape, padding):
    """The matrix of the convolution, entry by entry, as torch.nn.functional.conv defines it."""
    outs, ins, *sizes = kernel.shape
    points = list(itertools.product(*map(range, shape)))
    matrix = np.zeros((outs, len(points), ins, len(points)))
    for p, place in enumerate(points):
        for offset in itertools.product(*map(range, sizes)):
            source = [a + o - k // 2 for a, o, k in zip(place, offset, sizes, strict=True)]
            if padding == "circular":
                source = [s % n for s, n in zip(source, shape, strict=True)]
            elif not all(0 <= s < n for s, n in zip(source, shape, strict=True)):
                continue
            q = points.index(tuple(source))
            matrix[:, p, :, q] += kernel[(slice(None), slice(None), *offset)]
    return matrix.reshape(outs * len(points), ins * len(points))


SHAPES = [((3, 2, 3), (9,)), ((1, 1, 5), (16,)), ((2, 3, 3, 3), (6, 5)), ((4, 1, 1, 3), (3, 7))]


@pytest.mark.parametrize(("size", "shape"), SHAPES)
def test_convolutions_have_the_norms_of_their_matrices(size, shape):
    kernel = np.random.default_rng(0).standard_normal(size)
    circular = constrain.conv_norm(kernel, shape)
    assert circular.exact
    exact = np.linalg.norm(dense(kernel, shape, "circular"), 2)
    assert circular.lower == circular.upper == pytest.approx(exact, rel=1e-10)
    zeros = constrain.conv_norm(kernel, shape, "zeros")
    exact = np.linalg.norm(dense(kernel, shape, "zeros"), 2)
    assert zeros.lower <= exact * (1 + 1e-9)
    assert exact <= zeros.upper * (1 + 1e-9)
    assert zeros.lower == pytest.approx(exact, rel=1e-3)
    assert zeros.upper <= 1.6 * exact


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize(("size", "shape"), SHAPES)
def test_projected_convolutions_keep_the_limit(size, shape, padding):
    kernel = np.random.default_rng(1).standard_normal(size)
    found = constrain.project_conv(kernel, shape, 1.0, padding)
    assert found.shape == kernel.shape
    norm = np.linalg.norm(dense(found, shape, padding), 2)
    assert norm <= 1 + 1e-9
    # The projection is nearer than the kernel scaled to the limit.
    scaled = kernel / constrain.conv_norm(kernel, shape, padding).upper
    assert np.linalg.norm(found - kernel) <= np.linalg.norm(scaled - kernel) + 1e-9
    inside = 0.1 * found
    np.testing.assert_allclose(constrain.project_conv(inside, shape, 1.0, padding), inside)


def test_against_the_convolution_of_pytorch():
    torch = pytest.importorskip("torch", reason="compares with torch's convolution")
    kernel = np.random.default_rng(0).standard_normal((2, 3, 3, 5))
    x = np.random.default_rng(1).standard_normal((3, 6, 7))
    own = dense(kernel, (6, 7), "zeros") @ x.ravel()
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(x)[None], torch.from_numpy(kernel), padding=(1, 2)
    )
    np.testing.assert_allclose(own, theirs.numpy().ravel(), atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "shape", "error", "message"),
    [
        (np.zeros((2, 2, 3), int), (9,), gd.DTypeError, "kernel must be float32 or float64"),
        (np.zeros((2, 3)), (9,), gd.ShapeError, r"kernel must have shape \(out, in, k\)"),
        (np.zeros((2, 2, 3)), (9, 9), gd.ShapeError, "input_shape must have 1 sizes"),
        (np.zeros((2, 2, 4)), (9,), gd.ArgumentError, "kernel sizes must be odd"),
        (np.zeros((2, 2, 11)), (9,), gd.ArgumentError, "must not be larger than the input"),
        (np.full((1, 1, 3), np.nan), (9,), gd.NonFiniteError, "kernel holds NaN"),
    ],
)
def test_wrong_kernels_are_refused(kernel, shape, error, message):
    with pytest.raises(error, match=message):
        constrain.conv_norm(kernel, shape)
    with pytest.raises(error, match=message):
        constrain.project_conv(kernel, shape)
