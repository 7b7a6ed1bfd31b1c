"""The default of `train csv` beside simple forecasts, on real series and simulated plants."""

from __future__ import annotations

import runpy

import pytest

from places import ROOT

pytest.importorskip("statsmodels", reason="ships the series: install gradcore[test]")
pytest.importorskip("sklearn", reason="boosting is a reference: install gradcore[test]")

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "table_forecasts.py"))
PROBLEMS = SCRIPT["problems"](SCRIPT["SILVERBOX"])
LOST = pytest.mark.xfail(
    strict=True, reason="the years that choose a regression favour another one than the last years"
)
FAST = [
    pytest.param(name, marks=[LOST] if name.startswith("El Nino") else [])
    for name in PROBLEMS
    if not name.startswith("Silverbox")
]


@pytest.mark.parametrize("name", FAST)
def test_the_default_is_nowhere_worse_and_better_where_the_system_is_bent(name):
    problem = PROBLEMS[name]
    found = SCRIPT["measure"](problem, 0)
    # Two percent: lags and penalties of the two regressions are not the same.
    assert found["net"] <= 1.02 * found["ridge"]
    assert found["net"] <= found.get("last value", float("inf"))
    if name.startswith(("tank", "room")):
        assert found["net"] < 0.6 * found["ridge"]
        assert found["net"] < found["boosting"]
