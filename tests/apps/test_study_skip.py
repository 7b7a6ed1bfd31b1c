"""`gradcore study skip`: the theory agrees with brute force and the measurements with the theory;
and the command.
"""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.skip_paths import path_sum
from gradcore.apps.studies import skip

LENGTH = 600


@pytest.fixture(scope="module")
def found():
    told = []
    result = skip.run(length=LENGTH, progress=lambda what, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1
    return result


def test_the_sum_over_paths_is_the_power_of_the_companion_matrix():
    a, lag, s = 0.6, 3, 0.7
    companion = np.zeros((lag, lag))
    companion[0, 0], companion[0, -1] = a, s
    companion[1:, :-1] = np.eye(lag - 1)
    want = [np.linalg.matrix_power(companion, t)[0, 0] for t in range(40)]
    np.testing.assert_allclose(10 ** path_sum(a, lag, s, 40), want, rtol=1e-12)


def test_halved_paths_are_a_power_of_half_the_steps():
    logs = path_sum(0.0, 2, 0.95, 100)
    np.testing.assert_allclose(logs[::2], np.arange(50) * np.log10(0.95))
    assert np.isneginf(logs[1::2]).all()


def test_measured_chains_are_the_theory(found):
    """In float32, log10 has the error of a sum of roundings of 1e-7 per step, at gradients of
    10^-4000.
    """
    assert len(found.chains) == 6
    for chain in found.chains:
        assert len(chain.measured) == LENGTH
        assert chain.error < 1e-5, chain.title
    assert found.chains[1].measured[-1] == pytest.approx(599 * np.log10(np.float32(0.4)))


def test_nets_lose_what_their_exponent_says(found):
    for cell in found.cells:
        # The first steps are left out: the largest exponent dominates only after some of them.
        assert cell.measured[-1] == pytest.approx(cell.predicted, abs=3 + 0.1 * LENGTH / 64)
    plain, skipped = found.cells[0], found.cells[1]
    assert skipped.memory > 3 * plain.memory


def test_another_seed_is_another_net():
    first, again, other = (skip.run(length=200, seed=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first.cells[0].exponent != other.cells[0].exponent
    with pytest.raises(gd.ArgumentError, match="length must be 200 or more"):
        skip.run(length=100)


def test_gradients_are_drawn_on_a_logarithmic_axis():
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    found = skip.run(length=300)
    chains, cells = found.figure().axes
    for axis in (chains, cells):
        # What is drawn is log10 of the size on an even axis, with powers of ten beside it.
        assert axis.get_yscale() == "linear"
        assert axis.yaxis.get_major_formatter()(-200, None) == "$10^{-200}$"
        assert axis.yaxis.get_major_formatter()(0.0, None) == "1"
    # So a constant rate is a straight line.
    (line,) = (line for line in chains.lines if line.get_label() == "a = 0.95")
    slopes = np.diff(line.get_ydata()) / np.diff(line.get_xdata())
    np.testing.assert_allclose(slopes, np.log10(0.95), rtol=1e-4)
    # The fastest chain leaves the panel and says how far it goes; all others end inside it.
    ends = [line.get_ydata()[-1] < chains.get_ylim()[0] for line in chains.lines[::2]]
    assert ends == [False, True, False, False, False, False]
    assert "down to $10^{-119}$" in chains.lines[2].get_label()


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", "skip", "--length", "300", "--json", "s.json", "-q"])
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "s.json").read_text())
    assert read["chains"][2]["theory_log10"][1] is None
    assert "a = 0.95" in result.stdout
    assert "1 % after" in result.stdout
    assert (tmp_path / "study-skip.png").stat().st_size > 10_000
    assert "saved s.json, study-skip.png" in result.stderr
    for wrong, message in (
        (["--json", "no/s.json"], "is not a folder"),
        (["--plot", "s.nothing"], "nothing"),
    ):
        result = CliRunner().invoke(app, ["study", "skip", "--length", "200", "-q", *wrong])
        assert result.exit_code == 2, wrong
        assert message in result.stderr
