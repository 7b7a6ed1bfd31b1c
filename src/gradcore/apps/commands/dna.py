"""`gradcore train dna` and `gradcore annotate`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import gradcore as gd

from ..curves import can_draw
from ..tasks.dna import annotation, job, report, train
from ..tasks.dna.records import read
from .app import (
    Constrain,
    JsonFile,
    Limit,
    Memory,
    Quiet,
    RunFolder,
    Seed,
    SkipLag,
    Stability,
    StableLr,
    Threads,
    Watch,
    app,
    check_folder,
    check_run,
    errors,
    fail,
    interrupted,
    say,
    train_app,
)

QUICK, GENERATED, USUAL = 3.0, 1.5, 20.0


class CellName(str, Enum):
    """Names of the recurrent cells, as typer shows them."""

    gru = "gru"
    lstm = "lstm"
    rnn = "rnn"


Bases = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on this many bases however long it takes, instead of by the clock: the "
        "same seed then gives the same net to the bit.",
    ),
]
CellOfGenomes = Annotated[CellName, typer.Option(help="Recurrent cell.")]
Hidden = Annotated[int, typer.Option(min=1, help="Hidden units, each direction.")]
Layers = Annotated[int, typer.Option(min=1, help="Recurrent layers.")]
Forward = Annotated[bool, typer.Option("--forward", help="Read in one direction only.")]
Width = Annotated[int, typer.Option(help="Bases per token: 1, or 3 that overlap.")]
Files = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="GenBank, or FASTA with GFF3 beside it.", show_default=False),
]


@train_app.command()
def dna(
    train_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--train",
            metavar="FILE",
            help="Genomes to train on: GenBank, or FASTA with a GFF3 file of the same name beside "
            "it, plain or gzip. Without any: synthetic genomes.",
            show_default=False,
        ),
    ] = None,
    validate: Files = None,
    test: Files = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Judge only these records of --validate and --test.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.02, help="Of training.", show_default="20; 1.5 on synthetic genomes"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Three minutes of training.")] = False,
    bases: Bases = None,
    cell: CellOfGenomes = CellName.gru,
    hidden: Hidden = 64,
    layers: Layers = 2,
    forward: Forward = False,
    width: Width = 3,
    skip: SkipLag = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Upper layers add what they read.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "--checkpoint", help="Where the trained net is saved.")
    ] = Path("dna.safetensors"),
    run: RunFolder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --run.")
    ] = False,
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where a picture of the genomes goes. Default: beside the net, if matplotlib is "
            "installed.",
        ),
    ] = None,
    gff: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the genes called in --test as GFF3."),
    ] = None,
    constrain: Constrain = None,
    limit: Limit = None,
    watch: Watch = None,
    stability: Stability = None,
    stable_lr: StableLr = False,
    threads: Threads = None,
    memory: Memory = None,
    quiet: Quiet = False,
) -> None:
    """Teach a net to annotate genomes, base by base: non-coding, or strand and codon position.

    Exact gradients over windows of up to 50,000 bases. Prints, for held-out genomes, accuracy and
    Matthews correlation beside the longest-ORF rule (and Prodigal, if pyrodigal is installed), and
    how many genes are found. Overlapping genes and pseudogenes are left out of training and scores.

    Ctrl-C saves the net as it is and exits with 130; --run FOLDER --resume goes on with it.
    """
    options = train.Options(
        cell=cell.value,
        hidden=hidden,
        layers=layers,
        both=not forward,
        width=width,
        skip=skip,
        residual=residual,
        seed=seed,
        threads=threads,
        memory=memory,
        watch=watch,
        stability=stability,
        stable_lr=stable_lr,
        constrain=None if constrain is None else constrain.value,
        limit=1.0 if limit is None else limit,
    )
    with errors():
        check_run(run, resume, watch)
        picture = plot or out.with_suffix(".png")
        for path in (out, json_file, picture, gff):
            check_folder(path)
        if plot is not None and not can_draw():
            fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        if minutes is None:
            minutes = QUICK if quick else USUAL if train_files else GENERATED
        wanted = job.Job(
            train_files or (),
            validate or (),
            test or (),
            only or (),
            minutes,
            bases,
            out,
            run,
            resume,
            options,
            quiet,
        )
        result = job.run(wanted, (lambda line: None) if quiet else say)
        if result is None:
            interrupted(out, run)
        print("\n".join(report.lines(result)), flush=True)
        saved = [out]
        if json_file is not None:
            json_file.write_text(json.dumps(report.as_json(result), indent=1) + "\n")
            saved.append(json_file)
        tested = [one.annotation for one in result.judged if one.part == "test"]
        if gff is not None:
            annotation.write_gff3(gff, tested)
            saved.append(gff)
        if can_draw() and result.judged:
            report.draw(picture, result.judged[::-1])
            saved.append(picture)
        say(f"saved {', '.join(map(str, saved))}")


@app.command()
def annotate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FASTA", help="FASTA or GenBank, plain or gzip.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="A net of `gradcore train dna`.")] = Path(
        "dna.safetensors"
    ),
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the GFF3 goes.", show_default="FASTA.gff3"),
    ] = None,
    threads: Threads = None,
    memory: Annotated[str | None, typer.Option(help="Memory budget, such as 64MB.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Find the genes of a genome with a trained net, as GFF3 for any genome browser.

    The score of a gene is the mean probability of its bases' classes.
    """
    with errors():
        target = out or Path(f"{files[0].name.removesuffix('.gz')}.gff3")
        check_folder(target)
        if not checkpoint.exists():
            fail(
                f"cannot read {checkpoint}: no such file. Train a net by `gradcore train dna`, or "
                "name one by --checkpoint."
            )
        loaded = gd.load(checkpoint)
        train.width_of(loaded.net)
        found = []
        for path in files:
            for record in read(path):
                one = annotation.annotate(
                    loaded.net, loaded.params, record, threads=threads, memory=memory
                )
                found.append(one)
                if not quiet:
                    say(f"{record.name}: {len(one.genes):,} genes in {len(record):,} bases")
        annotation.write_gff3(target, found)
        if not quiet:
            say(f"saved {target}")
