"""`gradcore train prophage`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..curves import can_draw
from ..tasks.dna import train
from ..tasks.prophage import job, report
from .app import (
    EXIT_INTERRUPTED,
    Constrain,
    JsonFile,
    Limit,
    Memory,
    Quiet,
    Seed,
    Stability,
    StableLr,
    Threads,
    check_folder,
    errors,
    fail,
    say,
    train_app,
)
from .dna import Bases, CellName, CellOfGenomes, Forward, Hidden, Layers, Width


@train_app.command()
def prophage(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Bacterial chromosomes of at least two species, as GenBank, or FASTA with a GFF3 "
            "file of the same name beside it; genes of prophages are marked is_phage.",
        ),
    ],
    leave_out: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do not use this record.", show_default=False),
    ] = None,
    species: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Hold out only this species; may be given several times.",
            show_default="each with prophages in turn",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.02, help="Of training, for each species held out.")
    ] = 3.0,
    bases: Bases = None,
    cell: CellOfGenomes = CellName.gru,
    hidden: Hidden = 64,
    layers: Layers = 2,
    forward: Forward = False,
    width: Width = 3,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate at its largest.")] = 2e-3,
    seed: Seed = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "--checkpoint",
            help="Where the nets are saved: the species held out is added to each name.",
        ),
    ] = Path("prophage.safetensors"),
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where a picture of the chromosomes goes. Default: beside the nets, if matplotlib "
            "is installed.",
        ),
    ] = None,
    constrain: Constrain = None,
    limit: Limit = None,
    stability: Stability = None,
    stable_lr: StableLr = False,
    threads: Threads = None,
    memory: Memory = None,
    quiet: Quiet = False,
) -> None:
    """Find prophages, regions of a chromosome that came from a phage, in species never trained on.

    Exact gradients over windows of 100,000 bases. Each species is judged by a net that was trained
    on the others: AUROC over bins of 1,000 bases, beside that of 6-mer frequencies and how far back
    the net's gradient reaches.

    Ctrl-C saves the net in training as it is and exits with 130.
    """
    options = train.Options(
        cell=cell.value,
        hidden=hidden,
        layers=layers,
        both=not forward,
        width=width,
        lr=lr,
        stages=job.STAGES,
        seed=seed,
        threads=threads,
        memory=memory,
        stability=stability,
        stable_lr=stable_lr,
        constrain=None if constrain is None else constrain.value,
        limit=1.0 if limit is None else limit,
    )
    with errors():
        picture = plot or out.with_suffix(".png")
        for path in (out, json_file, picture):
            check_folder(path)
        if plot is not None and not can_draw():
            fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        wanted = job.Job(
            files,
            leave_out or (),
            species or (),
            minutes,
            bases,
            out,
            options,
            quiet,
        )
        result = job.run(wanted, (lambda line: None) if quiet else say)
        if result is None:
            say("interrupted; the nets so far were saved, the last as it was")
            raise typer.Exit(EXIT_INTERRUPTED)
        print("\n".join(report.lines(result)), flush=True)
        saved = [wanted.net_of(one.species) for one in result.judged]
        if json_file is not None:
            json_file.write_text(json.dumps(report.as_json(result), indent=1) + "\n")
            saved.append(json_file)
        if can_draw():
            report.draw(picture, result)
            saved.append(picture)
        say(f"saved {', '.join(map(str, saved))}")
