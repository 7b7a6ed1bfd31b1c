"""`gradcore diagnose`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import gradcore as gd

from ..curves import can_draw
from ..exit_codes import EXIT_FINDINGS
from ..settings import Resources, option
from ..tasks.material import MOST_STEPS, material
from .app import app, check_outputs, errors, fail, say, show
from .options import run_files, spread
from .study import shown

LossName = Literal["cross_entropy", "mse", "binary_cross_entropy", "huber", "gaussian_nll"]


@dataclass(frozen=True)
class Data:
    """The data that the net is diagnosed on, and the parts to measure."""

    steps: int | None = option(
        None,
        "Largest number of steps of a sequence.",
        min=4,
        show_default=f"{MOST_STEPS:,}; without FILE fewer for a large net",
    )
    sequences: int = option(1, "Largest number of sequences.", min=1)
    loss: LossName | None = option(
        None, "The loss for the targets y in an .npz file.", show_default=False
    )
    last: bool = option(False, "Use the loss of the last step only.", "--last")
    part: list[str] | None = option(
        None,
        f"A part to measure: {', '.join(gd.diagnosis.PARTS)}. It may be given several times.",
        show_default="all",
    )

    def chosen_loss(self) -> gd.loss.Loss | None:
        """The loss that --loss and --last name."""
        if self.loss is None:
            if self.last:
                fail("--last needs --loss, the loss for the targets y.")
            return None
        made = gd.loss.LOSSES[self.loss]
        return replace(made, step="last") if self.last else made


@dataclass(frozen=True)
class Report:
    """The files that `gradcore diagnose` writes."""

    out: Path = option(
        Path("diagnosis.html"), "File for the report, in HTML.", "--out", metavar="FILE"
    )
    json_file: Path | None = option(None, "Write all numbers as JSON.", "--json", metavar="FILE")
    plot: Path | None = option(
        None, "Save the pictures; the suffix gives the format.", metavar="FILE"
    )

    def check(self, inputs: Iterable[Path]) -> None:
        """Ends the command now if a file could not be written at the end, or is an input."""
        check_outputs(
            self.out,
            self.json_file,
            inputs=inputs,
            pictures=(self.plot,) if can_draw() else (),
        )
        if not can_draw():
            if self.plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say(
                "there are no pictures without matplotlib. For them, run: pip install "
                "'gradcore[plot]'"
            )

    def write(self, found: gd.diagnosis.Diagnosis) -> None:
        """Writes the files and names them."""
        found.to_html(self.out)
        saved = [self.out]
        if self.json_file is not None:
            found.to_json(self.json_file)
            saved.append(self.json_file)
        if self.plot is not None:
            found.plot(self.plot)
            saved.append(self.plot)
        say(f"saved {', '.join(map(str, saved))}")


@dataclass(frozen=True)
class Passes(Resources):
    """Threads and memory that each pass over the net may use."""

    threads: int | None = option(
        None, "Largest number of threads.", min=1, show_default="all cores"
    )
    memory: str | None = option(None, "Memory budget of each pass, such as 64MB.")


@app.command()
@spread
def diagnose(
    *,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="NET",
            help="A net that gradcore saved, or the folder of a run.",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="The data that the net reads: source code for a net of `train brackets`, genomes "
            "for one of `train dna` or `train prophage`, tables for one of `train csv`; for any "
            "other net one .npz file with x and optionally y, lengths, weight and reset. Default: "
            "source code of this machine, sequences of the task, or random input.",
            show_default=False,
        ),
    ] = None,
    data: Data,
    report: Report,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    resources: Passes,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the verdict only.")] = False,
) -> None:
    """Measure how far back a gradient reaches, why it vanishes or explodes, and what would help.

    Prints a verdict, in which each sentence has its numbers and its remedy, and writes a report
    with pictures. Exits with 1 if there is a warning.
    """
    with errors():
        report.check([*run_files(checkpoint), *(files or ())])
        found = material(
            checkpoint,
            files or (),
            loss=data.chosen_loss(),
            steps=data.steps,
            sequences=data.sequences,
            seed=seed,
        )
        if not quiet:
            say(f"measuring on {found.told}")
        batch = found.batch
        with shown(quiet) as progress:
            result = gd.diagnose(
                found.net,
                found.params,
                batch.x,
                batch.y if found.loss is not None else None,
                loss=found.loss,
                weight=batch.weight if found.loss is not None else None,
                lengths=batch.lengths,
                reset=batch.reset,
                parts=data.part or None,
                sequences=data.sequences,
                seed=seed,
                memory=resources.memory,
                threads=resources.threads,
                progress=progress,
            ).worded_for(found.front)
        show(result)
        report.write(result)
    if any(finding.level == "warning" for finding in result.findings):
        raise typer.Exit(EXIT_FINDINGS)
