"""gradcore.diagnose: the verdict on nets whose behaviour is known, and where its numbers come
from.
"""

import html
import json
import re

import numpy as np
import pytest

import gradcore as gd

LAST = gd.loss.MeanSquaredError(step="last")


def chain(factor, steps, hidden=4, batch=2, nonlinearity="identity"):
    """A linear chain in which every gradient is multiplied by `factor` per step."""
    net = gd.Stack(gd.RNN(1, hidden, nonlinearity=nonlinearity), gd.Linear(hidden, 1))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = factor * np.eye(hidden)
    x = np.full((steps, batch, 1), 0.01, np.float32)
    return net, params, x, np.ones((batch, 1), np.float32)


def about(found, topic):
    return [finding for finding in found.findings if finding.about == topic]


def test_a_vanishing_gradient_is_told_with_its_rate():
    net, params, x, y = chain(0.9, 2000)
    found = gd.diagnose(net, params, x, y, loss=LAST)
    (reach,) = about(found, "reach")
    assert reach.level == "warning"
    assert reach.values["memory_length"] == int(np.log(0.01) / np.log(0.9))
    assert reach.values["log10_growth"] == pytest.approx(1999 * np.log10(0.9), rel=1e-4)
    assert "1 % after 43 of 1,999 steps" in reach.text
    assert "net.init(chrono=2000)" in reach.remedy
    (exponent,) = about(found, "lyapunov")
    assert exponent.values["exponent"] == pytest.approx(np.log(0.9), rel=1e-4)
    assert "9 steps" in exponent.text  # the time constant 1/0.105
    (float32,) = about(found, "range")
    assert float32.values["log10_smallest"] == found.measured.hidden[0].norm_log10.min()
    # 0.9^847 is the first power below the smallest normal float32; dL/dh at the last step is of
    # order 1.
    assert float32.values["step"] == pytest.approx(1999 - 835, abs=40)
    (windows,) = about(found, "windows")
    assert windows.values["steps"] == 100
    (cut,) = about(found, "truncation")
    # A window of 64 would be cut 16 steps before the end, the remainder of 2,000.
    assert cut.values["truncation"] == 128


def test_dense_layers_and_residuals_are_told_and_gone_through():
    """They stand around the recurrence, whose rate is that of the layer alone."""
    net = gd.Stack(
        gd.Dense(1, 4, "gelu"),
        gd.RNN(4, 4, nonlinearity="identity"),
        gd.Residual(gd.LayerNorm(4), gd.Dense(4, 4, "tanh")),
        gd.Linear(4, 1),
    )
    params = net.init(seed=0)
    params["1.weight_hh"][...] = 0.9 * np.eye(4)
    x = np.full((2000, 2, 1), 0.01, np.float32)
    found = gd.diagnose(net, params, x, np.ones((2, 1), np.float32), loss=LAST)
    assert str(found).splitlines()[0] == (
        "Dense(1, 4, activation='gelu') > RNN(4, 4, nonlinearity='identity') > "
        "Residual(LayerNorm(4) > Dense(4, 4, activation='tanh')) > Linear(4, 1)"
    )
    (reach,) = about(found, "reach")
    assert reach.values["memory_length"] == int(np.log(0.01) / np.log(0.9))


def test_an_exploding_gradient_is_told_with_its_rate():
    net, params, x, y = chain(1.03, 2000)
    params["0.weight_ih"][...] = 0
    params["0.bias_ih"][...] = 0
    params["0.bias_hh"][...] = 0
    found = gd.diagnose(net, params, x, y, loss=LAST)
    assert found.findings[0].level == "warning"
    (reach,) = about(found, "reach")
    assert "it explodes" in reach.text
    assert reach.values["log10_growth"] == pytest.approx(1999 * np.log10(1.03), rel=1e-4)
    assert "GlobalNorm" in reach.remedy
    (exponent,) = about(found, "lyapunov")
    assert exponent.level == "warning"
    assert exponent.values["exponent"] == pytest.approx(np.log(1.03), rel=1e-3)


def test_a_gradient_that_arrives_is_good():
    net, params, x, y = chain(1.0, 500)
    found = gd.diagnose(net, params, x, y, loss=LAST, parts=["reach", "lyapunov"])
    assert [finding.level for finding in found.findings] == ["good", "good"]
    assert found.measured.hidden is None
    assert "reaches all 499 steps back" in str(found)


def test_a_memory_of_few_directions_is_no_vanishing():
    net, params, x, y = chain(0.5, 1000)
    params["0.weight_hh"][0, 0] = 1.0
    found = gd.diagnose(net, params, x, y, loss=LAST, parts=["reach"])
    (reach,) = found.findings
    assert reach.level == "good"
    # One direction of four passes the gradient on, so its root mean square stays above 1 %.
    params["1.weight"][0, 0] = 1e-4
    (reach,) = gd.diagnose(net, params, x, y, loss=LAST, parts=["reach"]).findings
    assert reach.level == "good"
    assert "but then it lasts" in reach.text


def test_an_overflow_is_a_finding_and_what_comes_before_is_measured():
    net, params, x, y = chain(2.0, 300, nonlinearity="relu")
    params["0.weight_ih"][...] = 1
    found = gd.diagnose(net, params, x, y, loss=LAST)
    (overflow,) = about(found, "overflow")
    step = int(overflow.values["step"])
    with pytest.raises(gd.NonFiniteError, match=rf"step {step}\b"):
        gd.apply(net, params, x)
    assert found.measured.lyapunov is not None
    assert found.measured.lags[-1] == step
    assert set(found.measured.left_out) >= {"gradient", "windows", "truncation"}


def test_dead_units_and_layers_far_apart():
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="relu"), gd.Linear(4, 1))
    params = net.init(seed=0)
    params["0.bias_ih"][...] = -100.0
    x = np.ones((50, 1, 1), np.float32)
    found = gd.diagnose(net, params, x, np.ones((50, 1, 1), np.float32), loss="mse")
    (dead,) = about(found, "parameters")
    assert "0.weight_ih" in dead.text
    assert "1.bias" not in dead.text
    (reach,) = about(found, "reach")
    assert "0 at the first: it vanishes" in reach.text

    net = gd.Stack(gd.RNN(1, 4), gd.RNN(4, 4), gd.Linear(4, 1))
    params = net.init(seed=0)
    params["1.weight_ih"][...] *= 1e-6
    params["1.bias_ih"][...] = 0.5
    found = gd.diagnose(net, params, x, np.ones((50, 1, 1), np.float32), loss="mse")
    (apart,) = about(found, "parameters")
    assert "0.weight_hh is 10^" in apart.text
    assert apart.values["log10_ratio"] == pytest.approx(
        found.measured.gradients["1.weight_hh"] - found.measured.gradients["0.weight_hh"]
    )


def test_gates_and_steps_are_told():
    net = gd.Stack(gd.LSTM(2, 8), gd.Linear(8, 1))
    params = net.init(seed=0, forget_bias=5.0)
    params["0.weight_ih"][...] = 0
    params["0.weight_hh"][...] = 0
    params["0.bias_ih"][:8] = 9.0  # the input gate is fully open
    x = np.zeros((400, 1, 2), np.float32)
    found = gd.diagnose(net, params, x, parts=["gates", "amplification"])
    remembers, stuck = sorted(about(found, "gates"), key=lambda finding: finding.level)
    assert remembers.values["median_steps"] == pytest.approx(
        -1 / np.log(1 / (1 + np.exp(-5))), 1e-3
    )
    assert "net.init(chrono=400)" not in remembers.remedy  # 149 steps of 400 are not few
    assert "100% of the units are saturated" in stuck.text
    assert "in i:" in stuck.text
    (step,) = about(found, "amplification")
    assert step.values["largest"] == found.measured.amplification.norm.max()

    net, params, x, _ = chain(1.0, 50, nonlinearity="relu")
    params["0.bias_ih"][...] = -9.0
    (dead,) = about(gd.diagnose(net, params, x, parts=["gates"]), "gates")
    assert "100% of the units are dead" in dead.text


def setting(bidirectional=False):
    net = gd.Stack(
        gd.Embedding(5, 3),
        gd.LSTM(3, 9, bidirectional=bidirectional),
        gd.GRU(18 if bidirectional else 9, 8, skip=gd.Skip(2, value=0.3)),
        gd.Linear(8, 5),
    )
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 120, 3))
    return net, net.init(seed=1), x, y


def test_the_numbers_are_those_of_the_parts():
    net, params, x, y = setting()
    lengths = np.array([100, 120, 0])
    weight = np.random.default_rng(2).random((120, 3)).astype(np.float32)
    target = {"loss": "cross_entropy", "weight": weight, "lengths": lengths}
    found = gd.diagnose(net, params, x, y, **target, sequences=2, seed=3).measured
    result = gd.value_and_grad(net, params, x, y, **target, train=False)
    assert found.loss == result.loss
    for name, log in found.gradients.items():
        assert log == pytest.approx(np.log10(np.linalg.norm(result.grads[name])), abs=1e-6)
    hidden = gd.jacobian.hidden_gradients(net, params, x, y, **target, layer=0)
    np.testing.assert_array_equal(found.hidden[0].norm_log10, hidden.norm_log10)
    reach = gd.horizon.reach(net, params, x, layer=1, lengths=lengths, seed=3)
    np.testing.assert_array_equal(found.reach[1].norm_log10, reach.norm_log10)
    assert found.names == ("1.LSTM", "2.GRU")
    # The two longest sequences are used, up to the end of the shorter one.
    assert found.looked_at == (0, 1)
    spectrum = gd.lyapunov.spectrum(net, params, x[:100, :2], 8, frames_seed=3)
    np.testing.assert_array_equal(found.lyapunov.exponents, spectrum.exponents)
    assert found.singular_values.shape == (len(found.lags), 2, 8)
    assert found.lags.tolist() == [1, 3, 10, 30, 100]


def test_without_targets_what_needs_none_is_measured():
    net, params, x, _ = setting()
    found = gd.diagnose(net, params, x).measured
    assert found.reach is not None
    assert found.lyapunov is not None
    assert found.loss is None
    assert {"gradient", "windows", "truncation"} == set(found.left_out)


def test_layers_that_read_both_ways_leave_parts_out():
    net, params, x, y = setting(bidirectional=True)
    found = gd.diagnose(net, params, x, y, loss="cross_entropy")
    assert len(found.measured.hidden) == 3
    assert found.measured.hidden[1].reverse
    assert "one is bidirectional" in found.measured.left_out["lyapunov"]
    assert "left out: singular values" in str(found)


def test_resets_leave_out_the_exponents_alone():
    net, params, x, y = setting()
    reset = np.zeros((120, 3), bool)
    reset[60, 0] = True
    found = gd.diagnose(net, params, x, y, loss="cross_entropy", reset=reset).measured
    assert "resets" in found.left_out["lyapunov"]
    assert np.isneginf(found.reach[0].norm_log10[:60, 0]).all()


def test_resets_cut_what_is_measured_of_the_state():
    net, params, x, y = setting()
    reset = np.zeros((120, 3), bool)
    reset[[0, 60], 0] = True
    options = {"loss": "cross_entropy", "reset": reset}
    found = gd.diagnose(net, params, x, y, **options).measured
    one = {"reset": reset[:, :1]}
    expected = gd.amplification.along(net, params, x[:, :1], **one)
    np.testing.assert_array_equal(found.amplification.norm, expected.norm)
    assert (expected.norm == 0).sum() >= 1
    expected = gd.jacobian.state_singular_values(net, params, x[:, :1], found.lags, 8, **one)
    np.testing.assert_array_equal(found.singular_values, expected)
    assert np.isneginf(expected[found.lags > 60]).all()
    assert np.isfinite(expected[found.lags < 60, :, 0]).all()
    str(gd.diagnose(net, params, x, y, **options))


def test_a_reset_at_the_first_step_forgets_the_state_that_is_given():
    net, params, x, _ = setting()
    _, state = gd.apply(net, params, x)
    kept = [np.array(layer.h) for layer in state]
    reset = np.zeros((120, 3), bool)
    reset[0, 0] = True
    parts = ["lyapunov", "amplification"]
    found = gd.diagnose(net, params, x, reset=reset, state=state, parts=parts).measured
    expected = gd.diagnose(net, params, x, parts=parts).measured
    np.testing.assert_array_equal(found.lyapunov.exponents, expected.lyapunov.exponents)
    np.testing.assert_array_equal(found.amplification.norm[1:], expected.amplification.norm[1:])
    other = gd.diagnose(net, params, x, state=state, parts=parts).measured
    assert (other.lyapunov.exponents != expected.lyapunov.exponents).all()
    for layer, before in zip(state, kept, strict=True):
        np.testing.assert_array_equal(layer.h, before)


def test_json_and_page_hold_everything(tmp_path):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    net, params, x, y = chain(0.9, 600)
    found = gd.diagnose(net, params, x, y, loss=LAST)
    read = json.loads(found.to_json(tmp_path / "found.json"))
    assert (tmp_path / "found.json").read_text() == found.to_json()
    assert read["findings"][0]["text"] == found.findings[0].text
    assert read["truncation"]["error"][-1] == pytest.approx(
        found.measured.truncation.error[-1], rel=1e-5
    )
    assert np.shape(read["hidden"][0]["norm_log10"]) == (600, 2)
    page = found.to_html(tmp_path / "found.html")
    assert (tmp_path / "found.html").read_text() == page
    assert found.findings[0].text in page
    assert not re.search(r"(src|href)=['\"]http", page)
    found.plot(tmp_path / "found.svg")
    assert "truncated" in (tmp_path / "found.svg").read_text()


# The parts that have a picture; "hidden" is the norm of dL/dh at each step.
DRAWN = {
    "hidden",
    "reach",
    "windows",
    "truncation",
    "lyapunov",
    "singular_values",
    "amplification",
    "gates",
}


@pytest.mark.parametrize("parts", [None, ["reach"], ["gates", "lyapunov"]])
def test_the_page_has_a_panel_with_a_caption_for_every_part(parts):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    net, params, x, y = setting()
    found = gd.diagnose(net, params, x, y, loss="cross_entropy", parts=parts)
    page = found.to_html()
    measured = {part for part in DRAWN if getattr(found.measured, part) is not None}
    assert measured == (DRAWN if parts is None else set(parts))
    figures = re.findall(
        r"<figure><h3>(.+?)</h3><img alt='(.+?)' src='data:image/png;base64,[\w+/=]{9000,}'>"
        r"<figcaption>(.+?)</figcaption></figure>",
        page,
    )
    assert len(figures) == len(measured)
    for told in zip(*figures, strict=True):
        assert len(set(told)) == len(figures), told
    assert all(alt.count(" over ") == 1 for _, alt, _ in figures)
    assert all(caption.endswith(".") and len(caption) > 60 for *_, caption in figures)
    # The same titles stand above the panels of the picture that has all of them.
    assert [axis.get_title() for axis in found.plot().axes if axis.get_title()] == [
        html.unescape(title) for title, *_ in figures
    ]


def test_the_page_is_made_for_telephones_and_for_the_dark():
    net, params, x, y = chain(0.9, 300)
    page = gd.diagnose(net, params, x, y, loss=LAST, parts=["reach"]).to_html()
    assert "<meta name='viewport' content='width=device-width, initial-scale=1'>" in page
    assert "<meta name='color-scheme' content='light dark'>" in page
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"(--\w+):", light))
    assert names == set(re.findall(r"(--\w+):", dark)), "a colour has no dark version"
    # Outside these names there is no colour that would stay when the screen is dark.
    assert re.findall(r"#[0-9a-f]{3,6}", dark.split("img {")[1]) == []
    assert "`" not in page
    assert "<code>net.init(chrono=300)</code>" in page


def test_progress_rises_to_the_end_and_can_stop_it():
    net, params, x, y = setting()
    told = []
    gd.diagnose(
        net,
        params,
        x,
        y,
        loss="cross_entropy",
        progress=lambda what, part: told.append((part, what)),
    )
    shares = [part for part, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (1.0, "done")
    assert {"gradient", "reach", "truncation", "singular values"} <= {what for _, what in told}

    def stop(what, part):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gd.diagnose(net, params, x, y, loss="cross_entropy", progress=stop)


def test_wrong_questions_are_refused():
    net, params, x, y = setting()
    with pytest.raises(gd.ArgumentError, match="y is given, but not loss"):
        gd.diagnose(net, params, x, y)
    with pytest.raises(gd.ArgumentError, match="loss is given, but not y"):
        gd.diagnose(net, params, x, loss="mse")
    with pytest.raises(gd.ArgumentError, match="parts must be one of 'gradient', 'reach'"):
        gd.diagnose(net, params, x, parts=["horizon"])
    with pytest.raises(gd.ArgumentError, match="parts must name at least one"):
        gd.diagnose(net, params, x, parts=[])
    with pytest.raises(gd.MemoryBudgetError):
        gd.diagnose(net, params, x, memory=1000)


def test_decompositions_between_passes_leave_the_other_cores_alone(monkeypatch):
    """BLAS threads spin on after a decomposition, on the cores that the next pass needs."""
    pool = pytest.importorskip("threadpoolctl", reason="asks BLAS: install gradcore[diagnose]")
    net = gd.Stack(gd.LSTM(2, 12))
    params = net.init(seed=0)
    x = np.random.default_rng(0).standard_normal((100, 1, 2)).astype(np.float32)
    seen = set()

    def spy(real):
        def watched(*args, **options):
            seen.update(p["num_threads"] for p in pool.threadpool_info() if p["user_api"] == "blas")
            return real(*args, **options)

        return watched

    for name in ("qr", "svd"):
        monkeypatch.setattr(np.linalg, name, spy(getattr(np.linalg, name)))
    before = pool.threadpool_info()
    parts = ["lyapunov", "singular_values", "amplification"]
    gd.diagnose(net, params, x, parts=parts)
    assert seen == {1}
    assert pool.threadpool_info() == before
