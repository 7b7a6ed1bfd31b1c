"""`gradcore study implicit`: its results must agree with the theory; and the command."""

import json

import numpy as np
import pytest

from gradcore.apps.studies import implicit as study


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "GAPS", (0.5, 0.1, 0.02, 1e-3, 1e-5))
        patch.setattr(study, "MOST", 400)
        told = []
        result = study.run(progress=lambda what, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1
    return result


def test_the_gradient_grows_as_one_over_the_gap(found):
    np.testing.assert_allclose(found.amplification, 1 / found.gaps, rtol=1e-6)
    np.testing.assert_allclose(found.sigma_min, found.gaps, rtol=1e-6)
    np.testing.assert_allclose(found.distance, found.gaps, rtol=1e-6)


def test_the_gauge_announces_it(found):
    assert found.announced.tolist() == [False, False, False, True, True]


def test_solvers_and_ways_back(found):
    damped, anderson, newton = found.iterations
    assert damped[0] > 0
    assert (damped[2:] == -1).all()
    assert ((anderson > 0) & (anderson < 60)).all()
    assert (newton < 6).all()
    gmres, single, neumann, one = found.errors
    assert (gmres < 1e-9).all()
    assert (single < 0.05).all()
    # Ten terms of the Neumann series leave out (1 - gap)^11 of the whole.
    np.testing.assert_allclose(neumann, (1 - found.gaps) ** 11, rtol=1e-6)
    np.testing.assert_allclose(one, 1 - found.gaps, rtol=1e-6)


def test_the_remedies_cure_it(found):
    constraint, penalty = found.remedies
    assert constraint.amplification[0] == pytest.approx(1e4, rel=1e-3)
    assert constraint.amplification[-1] == pytest.approx(20, rel=1e-3)
    assert penalty.amplification[0] == pytest.approx(1e4, rel=1e-3)
    assert penalty.amplification[-1] < 3


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.setattr(study, "GAPS", (0.1, 1e-3))
    monkeypatch.setattr(study, "MOST", 300)
    monkeypatch.setattr(study, "STEPS", 5)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", "implicit", "--json", "s.json", "-q"])
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "s.json").read_text())
    assert read["announced"] == [False, True]
    assert "never" in result.stdout
    assert (tmp_path / "study-implicit.png").stat().st_size > 10_000
