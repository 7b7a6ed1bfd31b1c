"""Amplification factors of textbook schemes written as layers, of the core's own cells, and in
simulations.
"""

import numpy as np
import pytest

import gradcore as gd
from gradcore.stability import von_neumann as vn

N = 24
K = 2 * np.pi * np.fft.fftfreq(N)
WAVE = np.exp(1j * np.outer(np.arange(N), K))  # one column per mode


def convolved(kernel, image, dilation=1):
    """A circular cross-correlation (channels, *grid), as plain loops."""
    sizes = kernel.shape[2:]
    out = np.zeros((kernel.shape[0], *image.shape[1:]), image.dtype)
    for place in np.ndindex(*sizes):
        shift = tuple(-dilation * (p - n // 2) for p, n in zip(place, sizes, strict=True))
        moved = np.roll(image, shift, axis=tuple(range(1, image.ndim)))
        out += np.einsum("oi,i...->o...", kernel[(slice(None), slice(None), *place)], moved)
    return out


# ---- textbook schemes

HEAT = np.array([1.0, -2.0, 1.0])
UPWIND = np.array([1.0, -1.0, 0.0])  # for u_t = -u_x, with the wind from the left
CENTRAL = np.array([0.5, 0.0, -0.5])


def lax_wendroff(c):
    return np.array([c * (1 + c) / 2, 1 - c**2, -c * (1 - c) / 2])


def wave(c):
    """(u_new, u_now) from (u_now, u_before): leapfrog for u_tt = u_xx."""
    kernel = np.zeros((2, 2, 3))
    kernel[0, 0] = c**2 * HEAT + [0, 2, 0]
    kernel[0, 1, 1], kernel[1, 0, 1] = -1, 1
    return kernel


@pytest.mark.parametrize("r", [0.1, 0.5, 0.6])
def test_heat(r):
    symbol = vn.residual(vn.convolution(HEAT, [N]), r)
    np.testing.assert_allclose(symbol.factor[:, 0, 0], 1 - 4 * r * np.sin(K / 2) ** 2, atol=1e-14)
    assert symbol.outcome is (vn.ModeGrowth.CONTRACTIVE if r <= 0.5 else vn.ModeGrowth.UNSTABLE)


def test_the_step_of_heat_is_a_half():
    limit = vn.stable_step(vn.convolution(HEAT, [N]))
    assert limit.step == pytest.approx(0.5, rel=1e-15)
    assert limit.wave_number == pytest.approx([-np.pi])
    assert limit.eigenvalue == pytest.approx(-4)
    assert "allows steps up to 0.5" in limit.reason
    # The stability interval of the fourth-order method ends on the real axis at -2.785293563405282.
    fourth = vn.stable_step(vn.convolution(HEAT, [N]), method="rk4")
    assert fourth.step == pytest.approx(2.785293563405282 / 4, rel=1e-12)
    assert vn.stable_step(vn.convolution(HEAT, [N]), method="rk2").step == pytest.approx(0.5)
    two = np.zeros((1, 1, 3, 3))
    two[0, 0, 1] += HEAT
    two[0, 0, :, 1] += HEAT
    assert vn.stable_step(vn.convolution(two, [8, 6])).step == pytest.approx(0.25)


@pytest.mark.parametrize("c", [0.3, 1.0, 1.1])
def test_upwind(c):
    symbol = vn.residual(vn.convolution(UPWIND, [N]), c)
    np.testing.assert_allclose(symbol.factor[:, 0, 0], 1 - c * (1 - np.exp(-1j * K)), atol=1e-14)
    np.testing.assert_allclose(symbol.norm**2, 1 - 4 * c * (1 - c) * np.sin(K / 2) ** 2, atol=1e-14)
    assert symbol.outcome is (vn.ModeGrowth.CONTRACTIVE if c <= 1 else vn.ModeGrowth.UNSTABLE)
    assert vn.stable_step(vn.convolution(UPWIND, [N])).step == pytest.approx(1.0)


def test_central_differences_grow_at_every_step():
    symbol = vn.convolution(CENTRAL, [N])
    np.testing.assert_allclose(symbol.factor[:, 0, 0], -1j * np.sin(K), atol=1e-14)
    for c in (1e-3, 0.5):
        euler = vn.residual(symbol, c)
        np.testing.assert_allclose(euler.norm**2, 1 + c**2 * np.sin(K) ** 2, rtol=1e-14)
        assert euler.outcome is vn.ModeGrowth.UNSTABLE
    limit = vn.stable_step(symbol)
    assert limit.step == 0
    assert "turns without loss" in limit.reason
    assert vn.stable_step(symbol, method="rk2").step == 0
    assert vn.stable_step(symbol, method="rk4").step == pytest.approx(2 * np.sqrt(2), rel=1e-9)


@pytest.mark.parametrize("c", [0.5, 1.0, 1.05])
def test_lax_wendroff(c):
    symbol = vn.convolution(lax_wendroff(c), [N])
    want = 1 - 1j * c * np.sin(K) - c**2 * (1 - np.cos(K))
    np.testing.assert_allclose(symbol.factor[:, 0, 0], want, atol=1e-14)
    np.testing.assert_allclose(
        symbol.norm**2, 1 - 4 * c**2 * (1 - c**2) * np.sin(K / 2) ** 4, atol=1e-13
    )
    assert symbol.outcome is (vn.ModeGrowth.CONTRACTIVE if c <= 1 else vn.ModeGrowth.UNSTABLE)


@pytest.mark.parametrize("c", [0.5, 0.9, 1.05])
def test_waves(c):
    symbol = vn.convolution(wave(c), [N])
    a = 1 - 2 * c**2 * np.sin(K / 2) ** 2 + 0j
    roots = np.stack([a + np.sqrt(a**2 - 1), a - np.sqrt(a**2 - 1)], axis=1)
    np.testing.assert_allclose(symbol.radius, np.abs(roots).max(axis=1), atol=1e-7)
    assert symbol.norm.max() > 1.5
    # The mean of u may move at a constant speed: the double eigenvalue 1 has one eigenvector.
    assert symbol.outcome is (vn.ModeGrowth.LINEAR if c <= 1 else vn.ModeGrowth.UNSTABLE)
    growth = symbol.growth(400)
    if c <= 1:
        rest = growth[:, 1:]
        assert rest.max() < 1.6  # at most 10^1.6, and only for a time
        assert growth[400, 0] == pytest.approx(np.log10(800), abs=0.01)
    else:
        assert growth[400].max() > 30


def test_outcomes_of_small_matrices():
    def of(matrix):
        return vn.Symbol((1,), np.array([matrix], complex)).outcome

    assert of([[0.9, 0.0], [0.0, 1.0]]) is vn.ModeGrowth.CONTRACTIVE
    assert of([[0.9, 5.0], [0.0, 0.8]]) is vn.ModeGrowth.BOUNDED
    assert of([[1.0, 0.1], [0.0, 1.0]]) is vn.ModeGrowth.LINEAR
    assert of([[1.0, 5.0], [0.0, -1.0]]) is vn.ModeGrowth.BOUNDED
    assert of([[1.1]]) is vn.ModeGrowth.UNSTABLE
    assert of([[1 + 1e-8]]) is vn.ModeGrowth.UNSTABLE


def test_limits_of_single_modes():
    def of(value, method):
        return vn.stable_step(vn.Symbol((1,), np.array([[[value]]], complex)), method=method)

    for method in vn.METHODS:
        assert of(0.1, method).step == 0
        assert "grows" in of(0.1 + 2j, method).reason
        assert of(0.0, method).step == np.inf
        assert "layer is zero" in of(0.0, method).reason
        # Points just inside and just outside of the computed border, at many angles.
        for angle in np.linspace(0.51, 1.49, 60) * np.pi:
            z = 3 * np.exp(1j * angle)
            h = of(z, method).step
            factor = [
                abs(np.polyval(vn.METHODS[method][::-1], part * h * z)) for part in (0.5, 0.999999)
            ]
            assert max(factor) <= 1 + 1e-12
            assert abs(np.polyval(vn.METHODS[method][::-1], 1.00001 * h * z)) > 1


# ---- convolutions


@pytest.mark.parametrize(
    ("shape", "grid", "dilation"),
    [
        ((3, 2, 3), (7,), 1),
        ((2, 2, 4), (9,), 2),
        ((2, 3, 3, 2), (5, 6), 1),
        ((1, 1, 3, 1, 3), (3, 4, 5), 1),
    ],
)
def test_modes_are_multiplied_by_the_symbol(shape, grid, dilation):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape)
    symbol = vn.convolution(kernel, grid, dilation=dilation)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
    amplitude = rng.standard_normal(shape[1])
    for mode, k in enumerate(symbol.wave_numbers):
        plane = np.exp(1j * (places @ k))
        image = amplitude.reshape(-1, *[1] * len(grid)) * plane
        want = (symbol.factor[mode] @ amplitude).reshape(-1, *[1] * len(grid)) * plane
        np.testing.assert_allclose(convolved(kernel, image, dilation), want, atol=1e-12)


def test_the_symbol_is_that_of_pytorch_and_of_conv_norm():
    torch = pytest.importorskip("torch", reason="compares with torch.nn.Conv2d")
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((3, 2, 3, 5))
    layer = torch.nn.Conv2d(2, 3, (3, 5), padding="same", padding_mode="circular", bias=False)
    layer = layer.double()
    layer.weight.data = torch.from_numpy(kernel)
    image = rng.standard_normal((2, 6, 8))
    theirs = np.fft.fftn(layer(torch.from_numpy(image)[None])[0].detach().numpy(), axes=(1, 2))
    symbol = vn.convolution(kernel, (6, 8))
    modes = np.fft.fftn(image, axes=(1, 2)).reshape(2, -1)
    own = np.einsum("moi,im->om", symbol.factor, modes).reshape(3, 6, 8)
    np.testing.assert_allclose(own, theirs, atol=1e-12)
    assert symbol.norm.max() == pytest.approx(gd.constrain.conv_norm(kernel, (6, 8)).upper)


def test_an_origin_shifts_the_phase():
    kernel = np.array([0.2, 0.5])
    moved = vn.convolution(kernel, [N], origin=0).factor[:, 0, 0]
    np.testing.assert_allclose(moved, 0.2 + 0.5 * np.exp(1j * K), atol=1e-14)
    np.testing.assert_allclose(
        vn.convolution(kernel, [N]).factor[:, 0, 0], moved * np.exp(-1j * K), atol=1e-14
    )


def test_stacks_and_growth_are_a_simulation():
    rng = np.random.default_rng(2)
    first, second = rng.standard_normal((3, 2, 3)) / 2, rng.standard_normal((2, 3, 3)) / 2
    block = vn.residual(vn.convolution(second, [N]) @ vn.convolution(first, [N]), 0.3)
    image = rng.standard_normal((2, N))
    growth = block.growth(60)
    mode = int(np.argmax(growth[60]))
    _, sizes, right = np.linalg.svd(np.linalg.matrix_power(block.factor[mode], 60))
    image = np.outer(right[0].conj(), WAVE[:, mode])
    now = image
    for _ in range(60):
        now = now + 0.3 * convolved(second, convolved(first, now))
    got = np.linalg.norm(now) / np.linalg.norm(image)
    assert np.log10(got) == pytest.approx(growth[60, mode], rel=1e-9)
    assert np.log10(sizes[0]) == pytest.approx(growth[60, mode], rel=1e-9)


def test_growth_neither_overflows_nor_vanishes():
    symbol = vn.convolution([0.0, 10.0, 0.0], [3])
    np.testing.assert_allclose(symbol.growth(2_000)[-1], 2_000, rtol=1e-12)
    assert np.isneginf(vn.convolution([0.0, 0.0, 0.0], [3]).growth(2)[1:]).all()


@pytest.mark.parametrize("method", ["euler", "rk2", "rk4"])
def test_a_method_is_its_steps(method):
    kernel = np.random.default_rng(3).standard_normal((2, 2, 3))
    image = np.random.default_rng(4).standard_normal((2, N))

    def f(u):
        return convolved(kernel, u)

    h = 0.2
    if method == "euler":
        after = image + h * f(image)
    elif method == "rk2":
        after = image + h * f(image + h / 2 * f(image))
    else:
        k1 = f(image)
        k2 = f(image + h / 2 * k1)
        k3 = f(image + h / 2 * k2)
        k4 = f(image + h * k3)
        after = image + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    symbol = vn.power(vn.convolution(kernel, [N]), h, method=method)
    own = np.einsum("moi,im->om", symbol.factor, np.fft.fft(image, axis=1))
    np.testing.assert_allclose(own, np.fft.fft(after, axis=1), atol=1e-11)


# ---- recurrent layers


def ring(net, seed=0, size=1.0):
    """Parameters whose recurrent weights are circulant."""
    params = net.init(seed=0, dtype="float64")
    hidden = net.recurrent[0].hidden_size
    first = size * np.random.default_rng(seed).standard_normal(hidden) / np.sqrt(hidden)
    params["0.weight_hh"] = np.stack([np.roll(first, i) for i in range(hidden)], axis=1)
    return params


@pytest.mark.parametrize(
    "layer",
    [
        gd.RNN(1, 12, nonlinearity="identity"),
        gd.RNN(1, 12, nonlinearity="identity", skip=gd.Skip(1, kind="mix", value=0.3)),
        gd.RNN(1, 12, nonlinearity="identity", skip=gd.Skip(3, value=0.4)),
        gd.RNN(1, 12, nonlinearity="identity", skip=gd.Skip(2, kind="mix", learned=True)),
        gd.RNN(1, 12, skip=gd.Skip(2, value=-0.2, learned=True)),
        gd.AntisymmetricRNN(1, 12, step=0.2, diffusion=0.1),
    ],
    ids=str,
)
def test_the_core_does_to_a_mode_what_its_symbol_says(layer):
    """Compares with tangents of the core along the zero trajectory, where tanh has slope 1."""
    net = gd.Stack(layer)
    params = ring(net)
    for name in params:
        if "bias" in name:
            params[name][...] = 0
    symbol = vn.recurrent(net, params)
    steps, lag = 30, layer.skip.lag if layer.skip else 1
    x = np.zeros((steps, 1, 1))
    k = symbol.wave_numbers[:, 0]
    for mode in (0, 1, 5, 6):
        wave = np.exp(1j * k[mode] * np.arange(12))
        h = np.stack([wave.real, wave.imag])[:, None]  # K = 2 tangents of one sequence
        skip = None
        if layer.skip:
            skip = np.zeros((2, lag, 1, 12))
            skip[:, -1] = h
        moved = gd.jacobian.jvp(net, params, x, dstate=[gd.LayerState(h, None, skip)])
        after = moved.d_outputs[:, -1, 0] * 2.0 ** moved.d_outputs_exponent[-1]
        amplitude = np.zeros(symbol.factor.shape[1], complex)
        amplitude[0] = 1
        want = np.linalg.matrix_power(symbol.factor[mode], steps) @ amplitude
        np.testing.assert_allclose(after[0] + 1j * after[1], want[0] * wave, atol=1e-10)
        assert lag == len(amplitude)


def test_a_gradient_of_a_ring_vanishes_as_its_modes_do():
    net = gd.Stack(gd.RNN(1, 12, nonlinearity="identity"))
    params = ring(net, size=0.8)
    reach = gd.horizon.reach(net, params, np.zeros((500, 1, 1)), probes=1).norm_log10[:, 0]
    rate = np.log10(vn.recurrent(net, params).radius.max())
    assert (reach[0] - reach[300]) / 300 == pytest.approx(rate, rel=1e-2)


def test_what_is_no_ring_is_refused():
    net = gd.Stack(gd.RNN(1, 12))
    params = net.init(seed=0)
    with pytest.raises(gd.ArgumentError, match=r"must be circulant, but 9\d % of its norm"):
        vn.recurrent(net, params)
    gru = gd.Stack(gd.GRU(1, 12))
    with pytest.raises(gd.ArgumentError, match=r"RNN or AntisymmetricRNN layer .* 0\.GRU is not"):
        vn.recurrent(gru, gru.init(seed=0))
    with pytest.raises(gd.ArgumentError, match="layer must be one of"):
        vn.recurrent(net, params, layer=1)
    net = gd.Stack(gd.RNN(1, 12, skip=gd.Skip(2, learned=True)))
    params = ring(net)
    params["0.skip_scale"][3] = 0.5
    with pytest.raises(gd.ArgumentError, match=r"differs among units, from 0\.5 to 1"):
        vn.recurrent(net, params)


def test_circulant_matrices():
    first = np.random.default_rng(0).standard_normal(7)
    matrix = np.stack([np.roll(first, i) for i in range(7)], axis=1)
    symbol = vn.circulant(matrix)
    np.testing.assert_allclose(symbol.factor[:, 0, 0], np.fft.fft(first), atol=1e-12)
    assert symbol.grid == (7,)
    almost = matrix + 1e-4 * np.eye(7)[::-1]
    with pytest.raises(gd.ArgumentError, match=r"must be circulant, but 0\.0058 % of"):
        vn.circulant(almost)
    assert vn.circulant(almost, tolerance=1e-3).factor.shape == (7, 1, 1)


# ---- nonlinear layers


@pytest.mark.parametrize("exact", [False, True])
def test_a_nonlinear_layer_at_a_constant_state(exact):
    kernel = np.random.default_rng(5).standard_normal((2, 2, 3)) / 2

    def f(u):
        return u + 0.5 * np.tanh(convolved(kernel, u))

    def jvp(u, v):
        return v + 0.5 * (1 - np.tanh(convolved(kernel, u)) ** 2) * convolved(kernel, v)

    state = np.full((2, 10), [[0.3], [-0.4]])
    found = vn.linearise(f, state, jvp=jvp if exact else None)
    slopes = 1 - np.tanh(convolved(kernel, state)[:, 0]) ** 2
    scaled = vn.convolution(slopes[:, None, None] * kernel, [10])
    atol = 1e-14 if exact else 1e-9
    np.testing.assert_allclose(found.symbol.factor, vn.residual(scaled, 0.5).factor, atol=atol)
    assert found.defect < 10 * atol
    assert found.norm == pytest.approx(found.symbol.norm.max(), abs=atol)
    assert found.radius == pytest.approx(found.symbol.radius.max(), abs=100 * atol)


def test_a_varying_state_leaves_a_defect():
    def f(u):
        return np.roll(u, 1, axis=1) * np.linspace(0, 2, 8)

    found = vn.linearise(f, np.zeros((1, 8)))
    # A diagonal with mean 1 multiplies a shift: the symbol is that of the shift, the rest is the
    # variation.
    np.testing.assert_allclose(found.symbol.norm, 1, atol=1e-9)
    weights = np.linspace(0, 2, 8)
    want = np.sqrt(1 - 8 / np.sum(weights**2))
    assert found.defect == pytest.approx(want, abs=1e-9)
    assert found.norm == pytest.approx(2.0, abs=1e-9)
    grown = vn.linearise(lambda u: np.concatenate([u, u[:1]]), np.zeros((2, 3, 4)))
    assert grown.symbol.factor.shape == (12, 3, 2)
    assert grown.radius is None


# ---- boundaries and projections


def test_zero_padding_has_at_most_the_norm_of_the_line():
    for kernel in (np.random.default_rng(6).standard_normal((3, 2, 5)), UPWIND[None, None]):
        found = vn.boundary(kernel, [12])
        dense = np.zeros((kernel.shape[0] * 12, kernel.shape[1] * 12))
        for n in range(12):
            for j in range(kernel.shape[2]):
                at = n + j - kernel.shape[2] // 2
                if 0 <= at < 12:
                    dense[n::12, at::12] += kernel[:, :, j]
        norm = np.linalg.norm(dense, 2)
        assert found.lower * (1 - 1e-9) <= norm <= found.upper * (1 + 1e-9)
        assert found.lower == pytest.approx(norm, rel=1e-3)
        assert found.circular == pytest.approx(vn.convolution(kernel, [12]).norm.max())
    # For a shift, nothing is lost on a ring and everything is lost in a box.
    shift = np.array([1.0, 0.0, 0.0])
    assert vn.convolution(shift, [12]).radius.max() == pytest.approx(1.0)
    assert np.abs(np.linalg.eigvals(np.eye(12, k=-1))).max() == 0


@pytest.mark.parametrize("step", [None, 0.25])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_projected_kernel_amplifies_no_mode(step, dtype):
    kernel = np.random.default_rng(7).standard_normal((4, 4, 3, 3)).astype(dtype)
    made = vn.project(kernel, (8, 8), step=step)
    assert made.dtype == dtype
    assert made.shape == kernel.shape
    symbol = vn.convolution(made, (8, 8))
    symbol = symbol if step is None else vn.residual(symbol, step)
    assert symbol.norm.max() <= 1 + (1e-6 if dtype == "float32" else 1e-12)
    assert np.abs(made - kernel).max() > 0.1
    again = vn.project(made, (8, 8), step=step)
    np.testing.assert_allclose(again, made, atol=1e-5)


def test_a_stable_residual_kernel_stays(tmp_path):
    heat = HEAT[None, None]
    np.testing.assert_allclose(vn.project(heat, [N], step=0.4), heat, atol=1e-12)
    assert np.abs(vn.project(heat, [N], step=0.6) - heat).max() > 0.1


# ---- wrong input, pictures


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vn.convolution(np.ones(3), [4, 4]), gd.ShapeError, "grid must have a size for"),
        (lambda: vn.convolution(np.ones((3, 3)), [4]), gd.ShapeError, "kernel must have shape"),
        (lambda: vn.convolution(np.ones(3) * 1j, [4]), gd.DTypeError, "must be real numbers"),
        (lambda: vn.convolution([1.0, np.nan], [4]), gd.NonFiniteError, "kernel holds NaN"),
        (lambda: vn.convolution(np.ones(3), [4], origin=3), gd.ArgumentError, "origin must be an"),
        (lambda: vn.convolution(np.ones(3), [0]), gd.ArgumentError, "grid must be"),
        (lambda: vn.residual(np.ones(3), 1.0), gd.DTypeError, "symbol must be a Symbol"),
        (lambda: vn.stable_step(np.ones(3)), gd.DTypeError, "symbol must be a Symbol"),
        (
            lambda: vn.power(vn.convolution(np.ones(3), [4]), 1.0, method="rk3"),
            gd.ArgumentError,
            "method must be one of",
        ),
        (
            lambda: vn.residual(vn.convolution(np.ones((2, 1, 3)), [4])),
            gd.ShapeError,
            "as many output channels as input",
        ),
        (
            lambda: vn.convolution(np.ones((2, 1, 3)), [4]) @ vn.convolution(np.ones(3), [5]),
            gd.ShapeError,
            "cannot follow one that gives 1 channels on",
        ),
        (lambda: vn.circulant(np.ones((2, 3))), gd.ShapeError, "matrix must be square"),
        (lambda: vn.circulant(np.full((2, 2), np.inf)), gd.NonFiniteError, "holds NaN"),
        (lambda: vn.linearise(lambda u: u, np.zeros(4)), gd.DTypeError, "state must be numbers"),
        (
            lambda: vn.linearise(lambda u: u, np.zeros((1, 5_000))),
            gd.ArgumentError,
            "state must have at most 4,096 numbers",
        ),
        (
            lambda: vn.linearise(lambda u: u[:, 1:], np.zeros((1, 4))),
            gd.ShapeError,
            "f must return",
        ),
        (
            lambda: vn.linearise(lambda u: u, np.zeros((1, 4)), jvp=lambda u, v: v[0]),
            gd.ShapeError,
            "jvp must return an array",
        ),
        (lambda: vn.project(np.ones((2, 1, 3)), [8], step=1.0), gd.ShapeError, "residual kernel"),
        (lambda: vn.project(np.ones((1, 1, 3)), [8], step=1, limit=0.5), gd.ArgumentError, "limit"),
        (lambda: vn.project(np.ones((1, 1, 3)), [8], step=0), gd.ArgumentError, "step must be"),
    ],
)
def test_wrong_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    vn.convolution(wave(0.9), [N]).plot(tmp_path / "line.png", title="waves")
    vn.convolution(np.ones((1, 1, 3, 3)) / 9, [8, 8]).plot(tmp_path / "map.png")
    for name in ("line.png", "map.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    with pytest.raises(gd.ArgumentError, match="only one or two axes"):
        vn.convolution(np.ones((1, 1, 1, 1, 1)), [2, 2, 2]).plot(tmp_path / "no.png")
