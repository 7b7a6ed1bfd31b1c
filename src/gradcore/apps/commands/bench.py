"""`gradcore bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import gradcore as gd

from .. import bench as benchmark
from ..bench import contestants, report
from ..curves import can_draw
from ..exit_codes import EXIT_FINDINGS
from ..settings import option
from .app import app, check_outputs, errors, fail, say, show
from .options import Quiet, spread, teller

# A relative change of the machine's limits beyond this during the benchmark is reported.
MOST_DRIFT = 0.1


def words(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(option: str, text: str) -> list[int]:
    """The positive integers of a comma-separated list; "1_000" and "1e4" are allowed."""
    try:
        found = [float(part) if "e" in part.lower() else int(part) for part in words(text)]
        if not found or any(n < 1 or n != int(n) for n in found):
            raise ValueError
    except (ValueError, OverflowError):
        fail(f"{option} must be whole numbers of 1 or more, separated by commas; got {text!r}.")
    return [int(n) for n in found]


def choose_peers(text: str) -> dict[str, contestants.Peer]:
    """The peers that were asked for and are installed; the others are named on stderr."""
    wanted = words(text)
    if wanted == ["none"] or not wanted:
        return {}
    names = list(contestants.PEERS) if wanted == ["installed"] else list(dict.fromkeys(wanted))
    found = {}
    for name in names:
        if benchmark.installed(name):
            found[name] = contestants.PEERS[name]
        else:
            say(
                f"{name} is not installed, so it is left out. For it, run: "
                f"pip install 'gradcore[{name}]'"
            )
    return found


@dataclass(frozen=True)
class Grid:
    """The combinations to measure, the peers and the number of turns."""

    cells: str = option(
        "RNN,LSTM,GRU",
        "Cells, separated by commas. AntisymmetricRNN is possible as well; no peer has it.",
        metavar="LIST",
    )
    hidden: str = option("32,128,256", "Numbers of hidden units H.", metavar="LIST")
    batch: str = option("1,8", "Numbers of sequences B.", metavar="LIST")
    steps: str | None = option(
        None, "Numbers of steps T. Default: 10,000, and 3,000 from B = 32 on.", metavar="LIST"
    )
    peers: str = option(
        "installed",
        "Libraries to compare with: torch, jax or both; none; or installed, which means all that "
        "are installed.",
        metavar="LIST",
    )
    threads: int | None = option(
        None,
        "Threads that each library uses. Default: as many as gradcore uses by itself.",
        min=1,
        max=64,
    )
    repeats: int = option(4, "Turns of each library; the best one counts.", min=1)

    def rows(self) -> list[benchmark.Row]:
        """All combinations of cells and sizes."""
        return benchmark.grid(
            words(self.cells),
            numbers("--hidden", self.hidden),
            numbers("--batch", self.batch),
            None if self.steps is None else numbers("--steps", self.steps),
        )


@app.command()
@spread
def bench(
    *,
    grid: Grid,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the machine and all rows as JSON."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a picture of times, bounds and fractions."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare the speed of exact BPTT with the machine's limits, PyTorch and JAX.

    First it measures the machine: multiply-adds per second, and reads from its caches. Then it
    measures every combination of cell, hidden units, sequences and steps: the loss and all
    gradients of one layer with 16 inputs in float32 and a squared error on every output. The
    gradients of all libraries are compared before anything is timed; then the libraries take turns,
    with a pause before each turn and with the same number of threads.

    The bound is the least time that the machine allows: reading the recurrent weights twice per
    step from the cache that holds them, or their flops at peak, whichever is longer, plus all other
    products at peak. Elementwise work and barriers are not counted.

    Exits with 1 if gradients disagree. Ctrl-C keeps the rows that are done and exits with 130.
    """
    with errors():
        rows = grid.rows()
        if plot is not None and not can_draw():
            fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        check_outputs(json_file, pictures=(plot,))
        beside = choose_peers(grid.peers)
        tell = teller(quiet)
        used = grid.threads or gd.build_info().threads
        with contestants.same_cpus(used):
            machine = benchmark.measure(used, progress=tell)
            show(f"{report.machine_lines(machine)}\n")
            results: list[benchmark.Result] = []
            drift = None
            try:
                show(report.header(list(beside)))
                for number, row in enumerate(rows, 1):
                    tell(f"{number} of {len(rows)}: {row}")
                    result = benchmark.run(row, machine, beside, repeats=grid.repeats)
                    results.append(result)
                    show(report.line(result, list(beside)))
                show(f"\n{report.summary(results)}")
                tell("measuring the limits again")
                drift = machine.all.drift(
                    benchmark.measure_limits(used, machine.l1_bytes, machine.l2_bytes)
                )
                if drift > MOST_DRIFT:
                    say(
                        f"the machine's limits changed by {drift:.0%} during the benchmark: it is "
                        "busy or its clock changes. The times are no more accurate than that; run "
                        "again when the machine is idle."
                    )
            except benchmark.DisagreementError as error:
                say(str(error))
                raise typer.Exit(EXIT_FINDINGS) from None
            finally:
                save(machine, results, list(beside), drift, json_file, plot)


def save(
    machine: benchmark.Machine,
    results: list[benchmark.Result],
    peers: list[str],
    drift: float | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Writes the files that were asked for, with the rows that are done."""
    if not results:
        return
    if json_file is not None:
        versions = {name: contestants.version(name) for name in peers}
        report.write_json(json_file, machine, results, versions, drift)
        say(f"saved {json_file}")
    if plot is not None:
        report.draw(plot, machine, results)
        say(f"saved {plot}")
