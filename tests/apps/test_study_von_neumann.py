"""`gradcore study von-neumann` agrees with the textbook and with itself; and the command."""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.studies import von_neumann as study


@pytest.fixture(scope="module")
def found():
    told = []
    result = study.run(depth=60, progress=lambda what, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1
    return result


def test_schemes_have_the_factors_and_limits_of_the_textbook(found):
    assert len(found.schemes) == 5
    for scheme in found.schemes:
        assert scheme.error < 1e-12
        assert scheme.limit == pytest.approx(scheme.known, abs=1e-4)
        assert scheme.above.max() > 1.01


def test_the_simulation_is_the_prediction(found):
    assert found.predicted.shape == found.simulated.shape == (2, 61, 33)
    assert found.error < 1e-10
    assert found.predicted[0, -1].max() > 2
    assert found.predicted[1].max() <= 1e-9
    assert found.ring_measured == pytest.approx(found.ring_predicted, rel=1e-6)


def test_a_saturating_layer_follows_until_it_saturates():
    result = study.run(depth=200)
    fastest = result.predicted[0, :, int(result.predicted[0, -1].argmax())]
    np.testing.assert_allclose(result.nonlinear[:50], fastest[:50], atol=1e-6)
    assert result.nonlinear[-1] < fastest[-1] - 2


def test_what_leaves_a_box_is_gone(found):
    ring, box = study.run(depth=200).box
    np.testing.assert_allclose(ring, np.arange(201) * np.log10(1.15), rtol=1e-12)
    # The results are the same until the flow has crossed the box.
    assert box[50] == pytest.approx(ring[50], abs=0.2)
    assert box[-1] < -20


def test_another_seed_is_another_kernel():
    first, again, other = (study.run(depth=10, seed=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first.changed != other.changed
    with pytest.raises(gd.ArgumentError, match="depth must be 10 or more"):
        study.run(depth=9)


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.chdir(tmp_path)
    command = ["study", "von-neumann", "--depth", "20", "--json", "s.json", "-q"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "s.json").read_text())
    assert [scheme["textbook"] for scheme in read["schemes"]] == [0.5, 1.0, 0.0, 1.0, 1.0]
    assert "Lax-Wendroff" in result.stdout
    assert (tmp_path / "study-von-neumann.png").stat().st_size > 10_000
    assert CliRunner().invoke(app, ["study", "von-neumann", "--depth", "5"]).exit_code == 2
