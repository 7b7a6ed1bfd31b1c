"""`gradcore diagnose`."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import gradcore as gd

from ..._engine.objective import resolve
from ..curves import can_draw
from ..tasks.material import material
from .app import EXIT_FINDINGS, app, check_folder, errors, fail, say
from .study import shown


class LossName(str, Enum):
    """Losses, as typer shows them."""

    cross_entropy = "cross_entropy"
    mse = "mse"
    binary_cross_entropy = "binary_cross_entropy"


@app.command()
def diagnose(
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
            help="What it reads: source code for a net of `train brackets`, genomes for one of "
            "`train dna` or `train prophage`, tables for one of `train csv`; one .npz file with x, "
            "and if wanted y, lengths, weight and reset, for any other. Default: code of this "
            "machine, sequences of the task, or random input.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=4, help="Steps of a sequence at most.")] = 10_000,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences at most.")] = 1,
    loss: Annotated[
        LossName | None,
        typer.Option(help="Loss of the y in an .npz file.", show_default=False),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="The loss is that of the last step alone.")
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A part to measure: {', '.join(gd.diagnosis.PARTS)}; may be given several times.",
            show_default="all",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the report goes, one HTML file.")
    ] = Path("diagnosis.html"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the pictures, the format by the suffix."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads at most.", show_default="all cores")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of each pass, such as 64MB.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the verdict only.")] = False,
) -> None:
    """Tell how far back a net's gradient reaches, why it dies or explodes, and what would help.

    Prints a verdict, each sentence with its number and its remedy, and writes a report with
    pictures. Exits with 1 if there is a warning.
    """
    with errors():
        for path in (out, json_file, plot):
            check_folder(path)
        if not can_draw():
            if plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say("no pictures without matplotlib. For them, run: pip install 'gradcore[plot]'")
        found = material(
            checkpoint,
            files or (),
            loss=_loss(loss, last),
            steps=steps,
            sequences=sequences,
            seed=seed,
        )
        if not quiet:
            say(f"looking at {found.told}")
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
                parts=part or None,
                sequences=sequences,
                seed=seed,
                memory=memory,
                threads=threads,
                progress=progress,
            )
        print(result, flush=True)
        result.to_html(out)
        saved = [out]
        if json_file is not None:
            result.to_json(json_file)
            saved.append(json_file)
        if plot is not None:
            try:
                result.plot(plot)
            except ValueError as error:
                fail(str(error))
            saved.append(plot)
        say(f"saved {', '.join(map(str, saved))}")
    if any(finding.level == "warning" for finding in result.findings):
        raise typer.Exit(EXIT_FINDINGS)


def _loss(name: LossName | None, last: bool) -> gd.loss.Loss | None:
    if name is None:
        if last:
            fail("--last needs --loss.")
        return None
    made = resolve(name.value)
    assert isinstance(made, gd.loss.Loss)
    return dataclasses.replace(made, step="last") if last else made
