"""The report of a benchmark: a table, JSON, and a picture, which needs matplotlib."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..._base.output import write_figure, write_text
from .contestants import PEERS
from .machine import Machine
from .turns import Result

__all__ = ["draw", "header", "line", "machine_lines", "summary", "write_json"]


def machine_lines(machine: Machine) -> str:
    """The machine and its limits as lines of text."""
    one, all_ = machine.one, machine.all
    several = all_.threads > one.threads

    def both(first: float, second: float, unit: str) -> str:
        return f"{first / 1e9:,.0f} {unit}" + (f" | {second / 1e9:,.0f} {unit}" if several else "")

    lines = [
        f"{machine.cpu}, {machine.cores} cores; {machine.isa}, {machine.compiler}, "
        f"gradcore {machine.gradcore}",
        "limits of one thread" + (f" | of {all_.threads} threads" if several else ""),
    ]
    for dtype, flops in one.flops.items():
        lines.append(f"  {dtype} multiply-adds  {both(flops, all_.flops[dtype], 'GFLOP/s')}")
    assumed = "" if machine.caches_known else " (size assumed)"
    for place, size in (("l1", machine.l1_bytes), ("l2", machine.l2_bytes)):
        speed = both(getattr(one, f"read_{place}"), getattr(all_, f"read_{place}"), "GB/s")
        lines.append(f"  reads from {place.upper()}, {size // 1024:,} KiB{assumed}  {speed}")
    lines.append(f"  reads from beyond  {both(one.read_beyond, all_.read_beyond, 'GB/s')}")
    return "\n".join(lines)


def header(peers: Sequence[str]) -> str:
    """The first lines of the table, in Markdown."""
    titles = ["cell", "H", "B", "T", "us per step", "bound", "fraction"]
    titles += [PEERS[name].title for name in peers]
    titles += ["best peer / gradcore"] if peers else []
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def line(result: Result, peers: Sequence[str]) -> str:
    """A row of the table, with "-" for a peer that was left out."""
    row = result.row
    texts = [row.cell, str(row.hidden), str(row.batch), f"{row.steps:,}"]
    texts += [_short(result.us_per_step), _short(result.bound_us), f"{result.fraction:.2f}"]
    texts += [_short(result.peers.get(name)) for name in peers]
    if peers:
        ratio = result.best_peer_ratio
        texts.append("-" if ratio is None else f"{ratio:.2f}")
    return f"| {' | '.join(texts)} |"


def summary(results: Sequence[Result]) -> str:
    """Geometric means and the worst rows, one line each."""
    lines = [_mean_and_worst("fraction of the bound", [(r.fraction, r) for r in results])]
    ratios = [(r.best_peer_ratio, r) for r in results if r.best_peer_ratio is not None]
    if ratios:
        lines.append(_mean_and_worst("best peer / gradcore", ratios))
    return "\n".join(lines)


def _mean_and_worst(title: str, pairs: Sequence[tuple[float, Result]]) -> str:
    mean = math.exp(sum(math.log(number) for number, _ in pairs) / len(pairs))
    worst, result = min(pairs, key=lambda pair: pair[0])
    return f"{title}: geometric mean {mean:.2f}, least {worst:.2f} ({result.row})"


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def write_json(
    path: str | os.PathLike[str],
    machine: Machine,
    results: Iterable[Result],
    versions: dict[str, str],
    drift: float | None = None,
) -> None:
    """Writes JSON with "machine" (Machine.facts(), versions of peers, drift) and "rows".

    Each row is Result.facts(). drift: the relative change of the machine's limits during the
    benchmark, None if they were not measured again.
    """
    facts = {
        "machine": machine.facts() | {"peers": versions, "drift": drift},
        "rows": [result.facts() for result in results],
    }
    write_text(path, json.dumps(facts, indent=1) + "\n")


def draw(path: str | os.PathLike[str], machine: Machine, results: Sequence[Result]) -> None:
    """Saves a picture of all times with the bound, and of gradcore's fraction of the bound.

    The suffix of path gives the format. Raises ImportError without matplotlib, and OSError or
    ValueError for a path that cannot be written.
    """
    write_figure(path, figure(machine, results), dpi=150)


def figure(machine: Machine, results: Sequence[Result]) -> Any:
    """Times, bounds and fractions as a matplotlib figure with one row per result."""
    from matplotlib.figure import Figure

    height = 1.8 + 0.28 * len(results)
    picture = Figure(figsize=(10.0, height), layout="constrained")
    times, fractions = picture.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    at = range(len(results))
    times.scatter([r.bound_us for r in results], at, marker="|", s=120, color="0.3", label="bound")
    series = {"gradcore": [r.us_per_step for r in results]}
    for name in dict.fromkeys(name for r in results for name in r.peers):
        series[PEERS[name].title] = [r.peers.get(name, math.nan) for r in results]
    for number, (name, values) in enumerate(series.items()):
        times.scatter(values, at, s=28, color=f"C{number}", label=name, zorder=3 - number)
    times.set_xscale("log")
    times.set_xlabel("microseconds per step, forward and backward")
    times.set_yticks(at, [str(r.row) for r in results])
    times.invert_yaxis()
    picture.legend(loc="outside lower left", ncols=len(series) + 1, frameon=False)
    fractions.barh(at, [r.fraction for r in results], color="C0", height=0.6)
    fractions.axvline(1.0, color="0.3", linewidth=1.0)
    fractions.set_xlabel("fraction of the bound")
    for axis in (times, fractions):
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    picture.suptitle(f"{machine.cpu}, {machine.isa}, {threads}", fontsize="medium")
    return picture
