"""Does the default of `gradcore train csv` lose to ridge regression on series as they are?

One test part is one draw: a forecast that is the best on average loses on some of them. Each series
is therefore cut off at several rows, and each beginning is learned as a table of its own, with its
own test part at the end, one step and three steps ahead. The series are those that statsmodels
ships with a time order, and simulated ones: an autoregression, a random walk, a season, a season
that drifts, noise. The references are those of table_forecasts.py, made by other code than that of
the command.

Results are appended to a file of JSON lines as they come and are not computed again.

    python benchmarks/table_origins.py [--series sunspots] [--out origins.jsonl]

Needs scikit-learn and statsmodels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table_forecasts import Problem, measure, write

from gradcore.apps.tasks.table.roles import Roles

Array = NDArray[np.float64]
# The shares of a series that are learned as tables, and the steps ahead.
BEGINNINGS, AHEAD = (0.6, 0.75, 0.9), (1, 3)
# Modules of statsmodels.datasets and their columns; None: all behind the first, month after month.
SHIPPED: dict[str, tuple[str, ...] | None] = {
    "sunspots": ("SUNACTIVITY",),
    "elnino": None,
    "co2": ("co2",),
    "nile": ("volume",),
    "macrodata": ("realgdp", "realcons", "realinv", "cpi", "m1", "tbilrate", "unemp", "infl"),
    "interest_inflation": ("Dp", "R"),
    "danish_data": ("lrm", "lry", "lpy", "ibo", "ide"),
}


def autoregression(*weights: float, rows: int, seed: int) -> Array:
    """A series of its own latest values and Gaussian noise."""
    y = np.random.default_rng(seed).standard_normal(rows)
    for t in range(len(weights), rows):
        y[t] += sum(weight * y[t - 1 - lag] for lag, weight in enumerate(weights))
    return y


def simulated() -> dict[str, Array]:
    """Linear series by name."""
    season = 3 * np.sin(2 * np.pi * np.arange(600) / 12)
    return {
        "oscillation": autoregression(1.5, -0.8, rows=400, seed=11),
        "random walk": autoregression(1.0, rows=500, seed=12),
        "season": season + autoregression(0.7, rows=600, seed=13),
        "season that drifts": season
        + 0.05 * np.arange(600)
        + autoregression(0.7, rows=600, seed=14),
        "noise": autoregression(0.1, rows=300, seed=15),
    }


def shipped() -> dict[str, Array]:
    """The series of statsmodels by name, gaps filled on straight lines."""
    found = {}
    for module, columns in SHIPPED.items():
        data = import_module(f"statsmodels.datasets.{module}").load_pandas().data
        if columns is None:
            found[module] = data.iloc[:, 1:].to_numpy(dtype=np.float64).ravel()
        for column in columns or ():
            name = f"{module} {column}" if len(columns or ()) > 1 else module
            found[name] = data[column].astype(float).interpolate().to_numpy()
    return found


def beginning(series: Array, rows: int) -> Callable[[Path], Path]:
    """What writes that many rows of the series as a table."""
    return lambda path: write(path, t=np.arange(rows), y=series[:rows])


def table(runs: list[dict[str, Any]]) -> str:
    """Geometric means over the tables of each series as Markdown, and over all series."""
    lines = [
        "| series | tables | train csv / ridge | last value / ridge | worst |",
        "|---" * 5 + "|",
    ]
    means = []
    for name in dict.fromkeys(run["series"] for run in runs):
        own = [run for run in runs if run["series"] == name]
        ratios = np.log([[run[key] / run["ridge"] for key in ("net", "last value")] for run in own])
        means.append(ratios.mean(axis=0))
        net, last = np.exp(means[-1])
        worst = np.exp(ratios[:, 0].max())
        lines.append(f"| {name} | {len(own)} | {net:.3f} | {last:.3f} | {worst:.3f} |")
    net, last = np.exp(np.mean(means, axis=0))
    lines.append(f"| geometric mean | {len(runs)} | {net:.3f} | {last:.3f} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", nargs="+", default=[""], help="beginnings of names")
    parser.add_argument("--out", type=Path, default=Path("origins.jsonl"))
    given = parser.parse_args()
    runs = []
    if given.out.exists():
        runs = [json.loads(line) for line in given.out.read_text().splitlines()]
    known = {(run["series"], run["rows"], run["ahead"]) for run in runs}
    for name, series in {**shipped(), **simulated()}.items():
        for share in BEGINNINGS:
            for ahead in AHEAD:
                rows = int(share * len(series))
                if (name, rows, ahead) in known or not name.startswith(tuple(given.series)):
                    continue
                roles = Roles("y", order="t", ahead=ahead)
                found = measure(Problem(beginning(series, rows), roles, True), 0)
                runs.append({"series": name, "rows": rows, "ahead": ahead, **found})
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
        if name.startswith(tuple(given.series)):
            print(name, flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
