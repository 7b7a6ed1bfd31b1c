"""Static inputs in sources of batches, trainings, scores and measurements."""

import numpy as np
import pytest

import gradcore as gd
from problem import error
from static_nets import LEARNED, STATIC, S, case_of

RNG = np.random.default_rng(0)
COUNT = 12
STATICS = RNG.standard_normal((COUNT, S)).astype("float32")
LENGTHS = RNG.integers(20, 40, COUNT)
XS = [RNG.standard_normal((n, 2)).astype("float32") for n in LENGTHS]


def answers(static, xs):
    """A gain and a level of each sequence that only static tells."""
    return [
        (np.cumsum(x[:, :1], axis=0) * 0.2 * s[0] + s[1]).astype("float32")
        for s, x in zip(static, xs, strict=True)
    ]


def net_of(**options):
    return gd.Stack(
        gd.Dense(2, 8), gd.StaticInput(S, 8), gd.LSTM(8, 12, **options), gd.Linear(12, 1)
    )


def sequences(**options):
    given = {"static": STATICS, "batch_size": 4, "seed": 1} | options
    return gd.data.Sequences(XS, answers(STATICS, XS), **given)


def test_batches_have_the_rows_of_their_sequences():
    source = sequences()
    seen = set()
    for index, rows in enumerate(source.rows(0)):
        batch = source.batch(0, index)
        np.testing.assert_array_equal(batch.static, STATICS[rows])
        np.testing.assert_array_equal(batch.x[0], np.array([XS[r][0] for r in rows]))
        seen |= set(rows.tolist())
    assert seen == set(range(COUNT))
    assert sequences(static=STATICS.astype(float), dtype="float64").batch(0, 0).static.dtype == "f8"
    assert sequences(static=np.ones((COUNT, 1), int)).batch(0, 0).static.dtype == np.float32
    assert sequences(static=None).batch(0, 0).static is None


def test_frames_are_taken():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(STATICS, columns=list("abc"))
    batch = sequences(static=frame, shuffle=False).batch(0, 0)
    np.testing.assert_array_equal(batch.static, STATICS[:4])


@pytest.mark.parametrize(
    ("static", "kind", "match"),
    [
        (STATICS[:5], gd.ShapeError, r"one row per sequence, shape \(12, S\); got \(5, 3\)"),
        (STATICS[:, 0], gd.ShapeError, r"Pass static\[:, None\]"),
        (np.where(np.eye(COUNT, S) > 0, np.nan, 0), gd.ArgumentError, "sequence 0 is not"),
        (np.zeros((COUNT, S), bool), gd.DTypeError, "must hold numbers"),
    ],
)
def test_static_of_sequences_is_checked(static, kind, match):
    with pytest.raises(kind, match=match):
        sequences(static=static)


def trained(net, data, steps=3, folder=None, resume=False, fit=None):
    params = net.init(seed=2)
    trainer = gd.Trainer(
        net, params, gd.optim.Adam(params, lr=0.01), loss=gd.loss.MeanSquaredError(), quiet=True
    )
    fit = {"steps": steps, "run": folder, "resume": resume} | ({} if fit is None else fit)
    report = trainer.fit(data, **fit)
    return params, report


@pytest.mark.parametrize("options", [{}, STATIC, LEARNED])
def test_static_inputs_help(options):
    """Without them a net cannot know the gain and the level of a sequence."""
    net = net_of(**options)
    params, report = trained(
        net, sequences(), steps=150, fit={"validation": sequences(shuffle=False)}
    )
    blind = sequences(static=np.zeros_like(STATICS))
    other = trained(net, blind, steps=150, fit={"validation": blind})[1]
    assert report.losses[-1] < 0.5 * other.losses[-1]
    del params


def test_a_resumed_run_gives_the_same_bits(tmp_path):
    net = net_of(**STATIC)
    whole = trained(net, sequences(), steps=6)[0]
    trained(net, sequences(), steps=3, folder=tmp_path / "run")
    again = trained(net, sequences(), steps=6, folder=tmp_path / "run", resume=True)[0]
    np.testing.assert_array_equal(whole.flat, again.flat)
    with pytest.raises(gd.ArgumentError, match="static"):
        trained(net, sequences(static=STATICS + 1), steps=9, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize("static", [STATICS[0], STATICS[:2]], ids=["one", "per lane"])
def test_windows_of_a_stream_keep_static_and_carry_the_state(static):
    """Gradients of windows without truncation add up to that of the whole."""
    net = net_of(**STATIC)
    x = np.concatenate(XS)[:240]
    y = np.cumsum(x[:, :1], axis=0)
    source = gd.data.Stream(x, y, batch_size=2, k1=50, static=static)
    batches = [source.batch(0, index) for index in range(len(source))]
    for batch in batches:
        np.testing.assert_array_equal(batch.static, np.broadcast_to(static, (2, S)))
    params = net.init(seed=1)
    state, outputs = None, []
    for batch in batches:
        found, state = gd.apply(net, params, batch.x, static=batch.static, state=state)
        outputs.append(found)
    lanes = np.stack([x[:120], x[120:]], axis=1)
    whole = gd.apply(net, params, lanes, static=np.broadcast_to(static, (2, S)).copy())[0]
    np.testing.assert_array_equal(np.concatenate(outputs), whole)
    trained(net, source, steps=7)


def test_static_of_a_stream_is_checked():
    x = np.zeros((40, 2), "float32")
    with pytest.raises(gd.ShapeError, match=r"one row per lane, shape \(2, S\)"):
        gd.data.Stream(x, x[:, :1], batch_size=2, k1=10, static=STATICS[:3])


def test_minimize():
    net = gd.Stack(gd.StaticInput(S, 2), gd.RNN(2, 4, **STATIC), gd.Linear(4, 1))
    source = sequences(shuffle=False)
    params = net.init(seed=0, dtype="float32")
    before = [gd.value(net, params, b.x, b.y, loss="mse", lengths=b.lengths, static=b.static)
              for b in (source.batch(0, i) for i in range(3))]  # fmt: skip
    for method in ("L-BFGS-B", "trust-ncg", "least-squares"):
        params = net.init(seed=0, dtype="float32")
        found = gd.minimize(net, params, source, loss="mse", method=method, steps=5, quiet=True)
        assert found.losses[-1] < 0.9 * np.mean(before)


def test_diagnose_measures_every_part():
    case = case_of("all", steps=60, batch=3, ragged=False)
    (net, params, x), keywords = case.core()
    static = keywords["static"]
    found = gd.diagnose(net, params, x, case.y, loss="mse", static=static)
    assert found.measured.left_out == {}
    grads = gd.value_and_grad(net, params, x, case.y, loss="mse", static=static, train=False).grads
    assert found.measured.gradients.keys() == grads.keys()
    bad = static.copy()
    bad[1] = np.nan
    with pytest.raises(gd.NonFiniteError, match="sequence 1"):
        gd.diagnose(net, params, x, case.y, loss="mse", static=bad)


@pytest.mark.parametrize("name", ["all", "states with skips"])
def test_window_shares_add_up_to_the_gradient(name):
    case = case_of(name, steps=150, ragged=False)
    (net, params, x), keywords = case.core()
    shares = gd.horizon.window_shares(
        net, params, x, case.y, loss="mse", windows=3, static=keywords["static"]
    )
    assert abs(shares.share.sum() - 1) <= 1e-12


def test_sharpness_of_a_net_with_static_inputs():
    case = case_of("static state", steps=20, batch=2, ragged=False)
    (net, params, x), keywords = case.core()
    found = gd.stability.flow.sharpness(
        net, params, x, case.y, loss="mse", static=keywords["static"], tol=1e-6
    )
    eye = np.eye(net.n_parameters)
    matrix = gd.jacobian.hvp(
        net, params, x, case.y, eye, loss="mse", static=keywords["static"]
    ).product
    assert error(found.values[:1], np.linalg.eigvalsh(matrix)[-1:]) <= 1e-5


@pytest.mark.parametrize("ragged", [False, True])
def test_a_training_that_is_watched(ragged):
    net = net_of(**STATIC)
    data = sequences() if ragged else [long_record()]
    report = trained(net, data, steps=4, fit={"watch": 2})[1]
    assert report.watched
    for line in report.watched:
        assert "watch_missing" not in line
        assert line["lyapunov"]


def long_record():
    x = RNG.standard_normal((2500, 3, 2)).astype("float32")
    y = np.cumsum(x[..., :1], axis=0) / 50
    return gd.Batch(x, y, static=STATICS[:3])
