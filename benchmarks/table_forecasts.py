"""Is the default of `gradcore train csv` worse than simple forecasts anywhere, and where better?

Eight problems, each written as a CSV file and learned with the options that name its columns and no
others: Silverbox (an electronic Duffing oscillator) as a simulation and as a forecast, the yearly
sunspots, the weekly CO2 of Mauna Loa and the monthly temperatures of El Nino as statsmodels ships
them, and two simulated plants: a tank, whose level and valve are not linear, and a room with a
thermostat. The references are made here, by other code than that of the command: the last value,
ridge regression on the latest rows (lags and penalty chosen on the validation part, fitted again on
both parts), and gradient boosting on the same rows. All are judged by their RMSE on the test part,
in the unit of the target, on the same rows. CPU seconds are those of the whole command.

Results are appended to a file of JSON lines as they come and are not computed again.

    python benchmarks/table_forecasts.py [--problems tank co2] [--seeds 0] [--out forecasts.jsonl]

Needs scikit-learn and statsmodels, and for Silverbox the file SNLS80mV.csv.gz (--silverbox).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcore.apps.settings import Resources
from gradcore.apps.tasks.table import job, train
from gradcore.apps.tasks.table.dataset import Dataset
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.sequences import TEST, TRAIN, VALIDATION

Array = NDArray[np.float64]
SILVERBOX = Path(__file__).parents[2] / "shared/data/sysid/SNLS80mV.csv.gz"
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
PENALTIES = tuple(10.0**power for power in range(-6, 5))
# Columns of the largest matrix of lags that boosting gets, and its rows.
MOST_BOOSTED = 64
MOST_ROWS = 30_000


@dataclass(frozen=True)
class Problem:
    """A table to write, the columns' roles, and whether a linear forecast is all there is."""

    write: Callable[[Path], Path]
    roles: Roles
    linear: bool
    missing: Any = "error"


def write(path: Path, **columns: Any) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sunspots(path: Path) -> Path:
    from statsmodels.datasets import sunspots as found

    data = found.load_pandas().data
    return write(path, year=data["YEAR"].astype(int), spots=data["SUNACTIVITY"])


def co2(path: Path) -> Path:
    from statsmodels.datasets import co2 as found

    data = found.load_pandas().data
    cells = ["" if np.isnan(value) else f"{value}" for value in data["co2"]]
    return write(path, week=[f"{day:%Y-%m-%d}" for day in data.index], co2=cells)


def elnino(path: Path) -> Path:
    from statsmodels.datasets import elnino as found

    data = found.load_pandas().data
    names = list(data.columns[1:])
    months = [f"{int(year)}-{m + 1:02}" for year in data["YEAR"] for m in range(12)]
    return write(path, month=months, temperature=data[names].to_numpy().ravel())


def held(rng: np.random.Generator, count: int, least: int, most: int) -> Array:
    """Steps of random height and length."""
    out: list[float] = []
    while len(out) < count:
        out += [float(rng.uniform())] * int(rng.integers(least, most))
    return np.array(out[:count])


def tank(path: Path) -> Path:
    """A tank's level: inflow through a valve with a dead band, outflow by the root of the level."""
    rng = np.random.default_rng(1)
    pump = held(rng, 8_000, 20, 120)
    level, valve = 1.0, 0.0
    levels = []
    for wanted in pump:
        if abs(wanted - valve) > 0.08:  # it sticks until it is told to move further than that
            valve = wanted
        level = max(0.0, level + 0.05 * (2.0 * valve**2 - 0.9 * np.sqrt(level)))
        levels.append(level + 0.01 * rng.standard_normal())
    return write(path, pump=pump.round(4), level=np.round(levels, 4))


def room(path: Path) -> Path:
    """A room's temperature: weather, and a heater whose thermostat has a hysteresis."""
    rng = np.random.default_rng(2)
    inside, wall, on, slow = 19.0, 12.0, False, 0.0
    rows = []
    for t in range(8_000):
        slow = 0.995 * slow + 0.1 * rng.standard_normal()
        outside = 5.0 + 6.0 * np.sin(2 * np.pi * t / 288) + slow
        on = inside < 19.0 or (on and inside < 21.0)
        inside += 0.25 * on + 0.04 * (wall - inside) + 0.004 * (outside - inside)
        wall += 0.02 * (inside - wall) + 0.004 * (outside - wall)
        rows.append((outside + 0.1 * rng.standard_normal(), inside + 0.05 * rng.standard_normal()))
    outsides, insides = np.round(rows, 3).T
    return write(path, outside=outsides, inside=insides)


def problems(silverbox: Path) -> dict[str, Problem]:
    """All by name."""
    two = ("V1", "V2")
    return {
        "sunspots, 1 year": Problem(sunspots, Roles("spots", order="year", ahead=1), False),
        "CO2, 4 weeks": Problem(co2, Roles("co2", order="week", ahead=4), True, "last"),
        "El Nino, 3 months": Problem(elnino, Roles("temperature", order="month", ahead=3), False),
        "tank, simulated": Problem(tank, Roles("level", ("pump",)), False),
        "room, 12 steps": Problem(room, Roles("inside", ahead=12), False),
        "Silverbox, simulated": Problem(lambda path: silverbox, Roles("V2", ("V1",)), False),
        "Silverbox, 1 step": Problem(lambda path: silverbox, Roles("V2", two, ahead=1), False),
        "Silverbox, 5 steps": Problem(lambda path: silverbox, Roles("V2", two, ahead=5), False),
    }


def lagged(data: Dataset, rows: NDArray[np.int64], lags: int) -> Array:
    """(m, lags * I) the inputs of each row and of those before it, the first of all repeated."""
    begins = data.groups.starts[np.searchsorted(data.groups.starts, rows, side="right") - 1]
    places = np.maximum(rows[:, None] - np.arange(lags), begins[:, None])
    return data.x[places].reshape(len(rows), -1).astype(np.float64)


def rmse(guess: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((guess - truth) ** 2)))


def fitted(x: Array, y: Array, penalty: float) -> Callable[[Array], Array]:
    """Ridge regression with a free intercept."""
    mean, center = x.mean(axis=0), y.mean()
    centered = x - mean
    gram = centered.T @ centered
    gram.flat[:: len(gram) + 1] += penalty * len(x) * 1e-3
    weights = np.linalg.solve(gram, centered.T @ (y - center))
    return lambda new: (new - mean) @ weights + center


def references(data: Dataset) -> dict[str, float]:
    """The RMSE of the simple forecasts on the test part."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    learned, chosen, test = (np.flatnonzero(data.parts == p) for p in (TRAIN, VALIDATION, TEST))
    y = data.y
    found = {}
    if data.schema.target.horizon:
        now = data.now[test]
        known = ~np.isnan(now)
        found["last value"] = rmse(now[known], y[test][known])
    best = (np.inf, 0, 0.0)
    for lags in LAGS:
        if lags * data.x.shape[1] > len(learned) // 3:
            continue
        x, held_out = lagged(data, learned, lags), lagged(data, chosen, lags)
        for penalty in PENALTIES:
            score = rmse(fitted(x, y[learned], penalty)(held_out), y[chosen])
            best = min(best, (score, lags, penalty))
    _, lags, penalty = best
    both = np.concatenate([learned, chosen])
    ridge = fitted(lagged(data, both, lags), y[both], penalty)
    found["ridge"] = rmse(ridge(lagged(data, test, lags)), y[test])
    found["lags"] = lags
    lags = max(1, min(lags, MOST_BOOSTED // data.x.shape[1]))
    some = both[:: max(1, len(both) // MOST_ROWS)]
    boosted = HistGradientBoostingRegressor(random_state=0, early_stopping=True)
    boosted.fit(lagged(data, some, lags), y[some])
    found["boosting"] = rmse(boosted.predict(lagged(data, test, lags)), y[test])
    return found


def measure(problem: Problem, seed: int, minutes: float = 10.0) -> dict[str, Any]:
    """The default of the command beside the references; minutes: its upper bound."""
    with tempfile.TemporaryDirectory() as folder:
        path = problem.write(Path(folder) / "table.csv")
        options = train.Options(seed=seed, quiet=True, resources=Resources(threads=1))
        start = time.process_time()
        result = job.run(
            job.Job(
                [path],
                problem.roles,
                missing=problem.missing,
                minutes=minutes,
                out=Path(folder) / "net.safetensors",
                options=options,
            )
        )
        seconds = time.process_time() - start
    assert not isinstance(result, train.Trained)
    found = references(result.data)
    return {
        "net": result.judged.score.rmse,
        **found,
        "linear": problem.linear,
        "updates": result.trained.steps,
        "ended": result.trained.stopped,
        "cpu_s": round(seconds, 1),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown."""
    names = ("net", "ridge", "last value", "boosting")
    lines = [
        "| RMSE | " + " | ".join(names) + " | net / ridge | CPU seconds |",
        "|---" * (len(names) + 3) + "|",
    ]
    for run in runs:
        cells = [f"{run[name]:.4g}" if name in run else "-" for name in names]
        ratio = f"{run['net'] / run['ridge']:.3f}"
        row = [f"{run['problem']} (seed {run['seed']})", *cells, ratio, f"{run['cpu_s']:.0f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=[""], help="beginnings of names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="bound of each training")
    parser.add_argument("--out", type=Path, default=Path("forecasts.jsonl"))
    parser.add_argument("--silverbox", type=Path, default=SILVERBOX)
    given = parser.parse_args()
    runs = []
    if given.out.exists():
        runs = [json.loads(line) for line in given.out.read_text().splitlines()]
    known = {(run["problem"], run["seed"]) for run in runs}
    for seed in given.seeds:
        for name, problem in problems(given.silverbox).items():
            if (name, seed) in known or not name.startswith(tuple(given.problems)):
                continue
            run = {"problem": name, "seed": seed, **measure(problem, seed, given.minutes)}
            runs.append(run)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            print(table(runs[-1:]).splitlines()[-1], flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
