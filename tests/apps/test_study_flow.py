"""`gradcore study flow`: its results must agree with the theory; and the command."""

import json

import numpy as np
import pytest

from gradcore.apps.studies import flow as study


@pytest.fixture(scope="module")
def found():
    told = []
    result = study.run(progress=lambda what, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1
    return result


def test_stepping_finds_the_limits_of_the_rules(found):
    assert len(found.limits) == 7
    for limit in found.limits:
        assert limit.found == pytest.approx(limit.rule, rel=1e-5)
    rules = {limit.name: limit.rule for limit in found.limits}
    assert rules["gradient descent"] == 2
    assert rules["Adam, beta1 0.9"] == pytest.approx(38)


def test_lax(found):
    # One step is consistent to order 2, the method converges with order 1, and beyond the limit it
    # does not.
    small = found.steps <= 0.25
    local = np.polyfit(np.log(found.steps[small]), np.log(found.local[small]), 1)[0]
    assert local == pytest.approx(2.0, abs=0.1)
    assert found.order == pytest.approx(1.0, abs=0.05)
    assert (found.whole[found.steps > 1] > 10 * found.whole[found.steps == 0.9]).all()


def test_training_ends_up_at_its_limit(found):
    assert found.ratios[0] < 0.5
    assert 0.9 < np.median(found.ratios[10:]) < 2.0
    assert found.losses[-1] < 0.2 * found.losses[0]


def test_the_warning_comes_before_the_explosion(found):
    assert found.warned < found.exploded
    assert found.rising[-1] > 1e3
    assert found.held[-1] < found.held[0]


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", "flow", "--seed", "1", "--json", "s.json", "-q"])
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "s.json").read_text())
    assert read["seed"] == 1
    assert read["lax"]["order"] == pytest.approx(1.0, abs=0.1)
    assert "warned before update" in result.stdout
    assert (tmp_path / "study-flow.png").stat().st_size > 10_000
