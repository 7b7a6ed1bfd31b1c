"""Masks and signs of weights hold exactly from the start, after every step of every optimizer."""

import numpy as np
import pytest

import gradcore as gd
import optim_cases
from gradcore import constrain

NAME = "0.weight_hh"
H = 9


def setting(dtype="float32"):
    net = gd.Stack(gd.LSTM(3, H), gd.RNN(H, 7), gd.Linear(7, 2))
    return net, net.init(seed=0, dtype=dtype)


def gradient(net, dtype, seed):
    rng = np.random.default_rng(seed)
    return gd.Grads(net, rng.standard_normal(net.n_parameters).astype(dtype))


def rules(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < 0.6, rng.integers(-1, 2, shape)


def assert_kept(weight, present, sign):
    assert (weight[~present] == 0).all()
    assert (weight[sign > 0] >= 0).all()
    assert (weight[sign < 0] <= 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [*optim_cases.TORCH, *optim_cases.LION])
def test_the_rules_hold_after_every_step_and_touch_nothing_else(case, dtype):
    name, options = {**optim_cases.TORCH, **optim_cases.LION}[case]
    net, params = setting(dtype)
    free = gd.Params(net, params.flat.copy())
    present, sign = rules((4 * H, H))
    mask = constrain.Mask(present, sign=sign, weights=NAME)
    optimizer = getattr(gd.optim, name)(params, constraints=[mask], **options)
    other = getattr(gd.optim, name)(free, **options)
    left = np.zeros(sign.shape, bool)
    for step in range(25):
        assert_kept(params[NAME], present, sign)
        left |= (params[NAME] != 0) & present
        report = optimizer.step(gradient(net, dtype, step))
        other.step(gradient(net, dtype, step))
        for own in params:
            if own != NAME:
                np.testing.assert_array_equal(params[own], free[own])
    assert report.constraints[NAME].active
    assert report.constraints[NAME].norm > 0
    # What may have either sign is trained as without a mask, and all that is present has moved.
    untouched = present & (sign == 0)
    np.testing.assert_array_equal(params[NAME][untouched], free[NAME][untouched])
    assert left[present].all()
    for moment in optimizer.moments.values():
        start = next(spec.start for spec in net.parameter_specs if spec.name == NAME)
        own = moment[start : start + present.size].reshape(present.shape)
        assert (own[~present] == options.get("initial_accumulator_value", 0.0)).all() or (
            options.get("initial_accumulator_value") is not None
        )


def test_against_a_loop_of_projected_steps_with_momentum():
    net, params = setting("float64")
    present, sign = rules((4 * H, H), 3)
    w = np.where(present, params[NAME], 0)
    w = np.where((sign * w) < 0, 0, w)
    mask = constrain.Mask(present, sign=sign, weights=NAME)
    optimizer = gd.optim.SGD(params, 0.05, momentum=0.9, constraints=[mask])
    np.testing.assert_array_equal(params[NAME], w)
    velocity = np.zeros_like(w)
    for step in range(40):
        grads = gradient(net, "float64", step)
        optimizer.step(grads)
        velocity = 0.9 * velocity + np.where(present, grads[NAME], 0)
        moved = w - 0.05 * velocity
        broken = sign * moved < 0
        w = np.where(broken, 0, moved)
        velocity = np.where(broken & (-sign * velocity < 0), 0, velocity)
        np.testing.assert_allclose(params[NAME], w, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda p, c: gd.optim.SGD(p, 0.1, momentum=0.95, constraints=c),
        lambda p, c: gd.optim.RMSprop(p, 0.01, momentum=0.95, constraints=c),
        lambda p, c: gd.optim.Adam(p, 0.01, constraints=c),
        lambda p, c: gd.optim.Lion(p, 0.01, betas=(0.5, 0.99), constraints=c),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_leaves_its_bound_as_soon_as_the_gradient_turns(make, sign):
    net, params = setting("float64")
    optimizer = make(params, [constrain.Mask(sign=sign, weights=NAME)])
    pushed = gd.Grads(net, np.zeros(net.n_parameters))
    for _ in range(150):
        pushed[NAME][...] = sign  # into the bound
        optimizer.step(pushed)
    assert (params[NAME] == 0).all()
    pushed[NAME][...] = -sign
    optimizer.step(pushed)
    assert (sign * params[NAME] > 0).all()


@pytest.mark.parametrize(
    ("weights", "shape", "spread"),
    [
        (NAME, (4 * H, H), lambda m: m),
        (NAME, (H, H), lambda m: np.tile(m, (4, 1))),
        (NAME, (H,), lambda m: np.tile(m, (4 * H, 1))),
        (NAME, (H, 1), lambda m: np.tile(m, (4, H))),
        (NAME, (4 * H, 1), lambda m: np.tile(m, (1, H))),
        (NAME, (4, H, H), lambda m: m.reshape(4 * H, H)),
        ("0.weight_ih", (H, 3), lambda m: np.tile(m, (4, 1))),
        ("0.bias_hh", (H,), lambda m: np.tile(m, 4)),
        ("0.bias_hh", (4 * H,), lambda m: m),
        ("2.weight", (7,), lambda m: np.tile(m, (2, 1))),
        ("1.weight_hh", (), lambda m: np.full((7, 7), m)),
    ],
)
def test_shapes_of_whole_parameters_of_gates_and_what_broadcasts(weights, shape, spread):
    _, params = setting("float64")
    params.flat[:] = np.random.default_rng(5).standard_normal(params.flat.size)
    before = params[weights].copy()
    present, sign = rules(shape, 1)
    gd.optim.SGD(params, 0.1, constraints=[constrain.Mask(present, sign=sign, weights=weights)])
    present, sign = spread(np.asarray(present)), spread(np.asarray(sign))
    want = np.where(present & (sign * before >= 0), before, 0)
    np.testing.assert_array_equal(params[weights], want)


def test_dales_law_in_both_directions():
    net = gd.Stack(gd.GRU(2, 6, bidirectional=True), gd.Linear(12, 1))
    params = net.init(seed=0)
    signs = np.array([1, 1, 1, 1, -1, -1])
    law = constrain.dale(signs, self_connections=False)
    optimizer = gd.optim.Adam(params, 0.05, constraints=[law])
    for step in range(10):
        optimizer.step(gradient(net, "float32", step))
    for name in ("0.weight_hh", "0.weight_hh_reverse"):
        for block in params[name].reshape(3, 6, 6):
            assert (block * signs >= 0).all()
            assert (np.diag(block) == 0).all()
            assert (block[:, :4] > 0).any()
            assert (block[:, 4:] < 0).any()
    sparse = constrain.dale(signs, present=np.eye(6) < 1)
    assert sparse == law
    assert hash(sparse) == hash(law)
    assert constrain.dale(-signs) != constrain.dale(signs)


def test_the_clip_and_its_report_do_not_see_absent_weights():
    net, params = setting("float64")
    present = np.zeros((4 * H, H), bool)
    mask = constrain.Mask(present, weights=NAME)
    optimizer = gd.optim.SGD(params, 0.1, clip=gd.clip.GlobalNorm(1.0), constraints=[mask])
    grads = gd.Grads(net, np.zeros(net.n_parameters))
    grads[NAME][...] = 1e6
    grads["2.bias"][...] = 0.5
    before = params["2.bias"].copy()
    report = optimizer.step(grads)
    assert not report.clipped
    assert report.grad_norm_log10 == pytest.approx(np.log10(np.sqrt(0.5)))
    np.testing.assert_allclose(params["2.bias"], before - 0.05)
    assert (grads[NAME] == 1e6).all()  # the caller's gradient is unchanged
    assert not report.constraints[NAME].active


def test_a_saved_optimizer_goes_on_to_the_same_bits_and_outside_changes_are_projected():
    net, params = setting()
    present, sign = rules((H, H))
    mask = constrain.Mask(present, sign=sign, weights=NAME)
    optimizer = gd.optim.Adam(params, 0.02, constraints=[mask])
    for step in range(5):
        optimizer.step(gradient(net, "float32", step))
    again = gd.Params(net, params.flat.copy())
    other = gd.optim.Adam(again, 0.02, constraints=[mask])
    other.load_state_dict(optimizer.state_dict())
    for step in range(5, 9):
        optimizer.step(gradient(net, "float32", step))
        other.step(gradient(net, "float32", step))
    np.testing.assert_array_equal(again.flat, params.flat)
    params[NAME][...] = 1.0
    optimizer.step(gradient(net, "float32", 10))
    assert_kept(params[NAME], np.tile(present, (4, 1)), np.tile(sign, (4, 1)))


def test_a_training_is_resumed_with_its_mask_and_an_average_keeps_it(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 20, 3)).astype(np.float32)
    y = rng.standard_normal((8, 20, 2)).astype(np.float32)
    present, sign = rules((H, H))

    averages = []

    def make(present=present):
        net, params = setting()
        mask = constrain.Mask(present, sign=sign, weights=NAME)
        optimizer = gd.optim.Adam(params, 0.03, constraints=[mask])
        averages.append(gd.optim.Average(params, 0.9))
        return gd.Trainer(net, params, optimizer, loss="mse", quiet=True, average=averages[-1])

    def data():
        return gd.data.Sequences(list(x), list(y), batch_size=4, seed=0)

    whole, first, second = make(), make(), make()
    whole.fit(data(), steps=8)
    first.fit(data(), steps=5, run=tmp_path)
    second.fit(data(), steps=8, run=tmp_path, resume=True)
    np.testing.assert_array_equal(second.params.flat, whole.params.flat)
    for params in (second.params, averages[2].params):
        assert_kept(params[NAME], np.tile(present, (4, 1)), np.tile(sign, (4, 1)))
    with pytest.raises(gd.ArgumentError, match=r"optimizer\.constraints was"):
        make(~present).fit(data(), steps=9, run=tmp_path, resume=True)


@pytest.mark.parametrize("case", ["adamw-decay", "nesterov", "rmsprop-both", "lion-options"])
def test_fixed_weights_keep_their_value_also_in_a_resumed_training(case):
    name, options = {**optim_cases.TORCH, **optim_cases.LION}[case]
    net, params = setting()
    fixed, sign = rules((H, H))
    wide = np.tile(fixed, (4, 1))
    wanted = params[NAME][wide].copy()
    assert (wanted * np.tile(sign, (4, 1))[wide] < 0).any()  # a fixed weight may have any sign
    mask = constrain.Mask(fixed=fixed, sign=sign, weights=NAME)
    optimizer = getattr(gd.optim, name)(params, constraints=[mask], **options)
    for step in range(10):
        optimizer.step(gradient(net, "float32", step))
        np.testing.assert_array_equal(params[NAME][wide], wanted)
        assert_kept(params[NAME], wide | True, np.where(wide, 0, np.tile(sign, (4, 1))))
    other = gd.Params(net, np.ones_like(params.flat))
    again = getattr(gd.optim, name)(other, constraints=[mask], **options)
    again.load_state_dict(optimizer.state_dict())
    again.step(gradient(net, "float32", 11))
    np.testing.assert_array_equal(other[NAME][wide], wanted)


def test_weights_that_are_not_finite_are_left_to_the_next_pass():
    net, params = setting()
    present, sign = rules((H, H))
    mask = constrain.Mask(present, sign=sign, weights=NAME)
    optimizer = gd.optim.SGD(params, 1e38, constraints=[mask])
    grads = gradient(net, "float32", 0)
    grads.flat[:] *= 1e30
    report = optimizer.step(grads)
    assert np.isnan(report.constraints[NAME].norm)
    assert (params[NAME].reshape(4, H, H)[:, ~present] == 0).all()
    with pytest.raises(gd.NonFiniteError):
        gd.apply(net, params, np.zeros((2, 1, 3), np.float32))


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimizers_of_torch_keep_it(name):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    import gradcore.torch as gt

    torch.manual_seed(0)
    layer = gt.LSTM(3, H)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(layer.parameters(), 0.05, **options)
    present, sign = rules((4 * H, H))
    mask = constrain.Mask(present, sign=sign)
    kept = gt.constrain(layer, optimizer, [mask])
    for _ in range(10):
        assert_kept(layer.weight_hh_l0.detach().numpy(), present, sign)
        optimizer.zero_grad()
        layer(torch.randn(12, 2, 3))[0].sin().sum().backward()
        optimizer.step()
    assert kept.reports[""][NAME].active
    # The momentum of what was cut is 0, so that a weight leaves its bound at once.
    weight = layer.weight_hh_l0
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    cut = torch.from_numpy(present & (sign > 0)) & (weight == 0)
    assert bool(cut.any())
    weight.grad[cut] = -1.0
    optimizer.step()
    assert bool((weight[cut] > 0).all())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constrain.Mask(), gd.ArgumentError, "needs present, sign or fixed; got none"),
        (lambda: constrain.Mask([[0, 1]]), gd.DTypeError, "must be booleans.*got int64"),
        (lambda: constrain.Mask(sign=[0.5]), gd.ArgumentError, "must be 1, -1 and 0"),
        (lambda: constrain.Mask(sign="+"), gd.ArgumentError, "must be 1, -1 and 0"),
        (lambda: constrain.Mask(sign=[True]), gd.ArgumentError, "must be 1, -1 and 0.*got bool"),
        (lambda: constrain.Mask(True, weights=3), gd.DTypeError, r"Mask\.weights"),
        (lambda: constrain.dale([1, 0]), gd.ArgumentError, "a 1 or -1 for each unit"),
        (lambda: constrain.dale([[1]]), gd.ArgumentError, r"got shape \(1, 1\)"),
    ],
)
def test_wrong_descriptions_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_does_not_fit_a_parameter_is_told():
    _, params = setting()
    before = params.flat.copy()
    with pytest.raises(
        gd.ShapeError, match=r"the shape of 0\.weight_hh, \(36, 9\), or \(9, 9\) for each gate.*8,"
    ):
        gd.optim.Adam(params, constraints=[constrain.dale([1] * 8, weights=NAME)])
    with pytest.raises(gd.ArgumentError, match="can have one constraint, and two match it"):
        gd.optim.Adam(
            params,
            constraints=[constrain.Mask(sign=0), constrain.SpectralNorm(weights="1.weight_hh")],
        )
    with pytest.raises(gd.ArgumentError, match="matches no parameter"):
        gd.optim.Adam(params, constraints=[constrain.Mask(sign=1, weights="head.*")])
    np.testing.assert_array_equal(params.flat, before)
