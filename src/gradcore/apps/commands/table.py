"""`gradcore train csv` and `gradcore predict`."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..tasks.table import job, predict, report, train
from ..tasks.table.read import Wanted
from ..tasks.table.roles import Roles
from .app import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    Constrain,
    JsonFile,
    Limit,
    Quiet,
    Stability,
    StableLr,
    Watch,
    app,
    check_folder,
    errors,
    fail,
    say,
    train_app,
)


class CellName(str, Enum):
    """Names of the recurrent cells, as typer shows them."""

    lstm = "lstm"
    gru = "gru"
    rnn = "rnn"
    antisymmetric = "antisymmetric"


class PerName(str, Enum):
    """What has a target."""

    step = "step"
    sequence = "sequence"


class SplitName(str, Enum):
    """How rows are held out."""

    sequence = "sequence"
    time = "time"


class MissingName(str, Enum):
    """What becomes of missing values."""

    error = "error"
    drop = "drop"
    zero = "zero"
    mean = "mean"
    last = "last"


class UnseenName(str, Enum):
    """What becomes of texts that training has not seen."""

    error = "error"
    none = "none"


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="CSV (also gzipped), .npy, .npz or Parquet; several are read below each other.",
        show_default=False,
    ),
]
Delimiter = Annotated[
    str | None, typer.Option(help="Between the cells of a CSV file. Default: found out.")
]
Encoding = Annotated[str, typer.Option(help="Of a CSV file.")]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...", help="Names of all columns, for a CSV or .npy file without names."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads at most.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory budget of a call of the net, such as 64MB.")
]


@train_app.command("csv")
def csv(
    files: Files,
    target: Annotated[str, typer.Option(help="Column to learn.", show_default=False)],
    features: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Columns to learn from. Default: all others."),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(help="Column that names a row's sequence. Default: a file is a sequence."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="Column to sort a sequence by: numbers or ISO dates. Default: as in the file."
        ),
    ] = None,
    per: Annotated[
        PerName, typer.Option(help="A target in every step, or one for the whole sequence.")
    ] = PerName.step,
    ahead: Annotated[
        int, typer.Option(min=0, metavar="N", help="Forecast the target N rows later.")
    ] = 0,
    classify: Annotated[
        bool | None,
        typer.Option(
            "--classify/--regress",
            help="Learn classes or a number. Default: classes if the target is text or has 10 "
            "whole numbers at most.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Columns that hold names even if they look like numbers."
        ),
    ] = None,
    missing: Annotated[
        MissingName,
        typer.Option(
            help="What to do with missing values: stop, drop the row, or read it as zero, as the "
            "mean, or as the last value before."
        ),
    ] = MissingName.error,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Hold out whole sequences, or the last rows of each. Default: sequences, if "
            "there are several."
        ),
    ] = None,
    cell: Annotated[CellName, typer.Option(help="Recurrent cell.")] = CellName.lstm,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden units.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Recurrent layers.")] = 1,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Steps that a gradient reaches back at most. Default: whole sequences up to 5,000 "
            "rows, up to 1,024 steps where they are longer or split by time.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Time for training. Default: 2, or none with --updates."),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train for this many updates: the same seed gives the same net to the bit."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Stop after N looks at the validation part without progress."
        ),
    ] = None,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate of Adam.")] = 3e-3,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, parts and order.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "--checkpoint", help="Where the trained net is saved.")
    ] = Path("table.safetensors"),
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep metrics and checkpoints of the training here."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --run.")
    ] = False,
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where a picture of the predictions goes. Default: beside the net, if matplotlib "
            "is installed.",
        ),
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = "utf-8",
    columns: Columns = None,
    constrain: Constrain = None,
    limit: Limit = None,
    watch: Watch = None,
    stability: Stability = None,
    stable_lr: StableLr = False,
    threads: Threads = None,
    memory: Memory = None,
    quiet: Quiet = False,
) -> None:
    """Train a sequence model on your own table: a row per time step, named columns.

    Standardises numbers, reads texts as categories, holds out 15% to choose the net and 15% to
    judge it, and prints its score beside that of the simplest guesses. `gradcore predict` applies
    the net to files with the same columns.

    Ctrl-C saves the best net so far and exits with 130.
    """
    with errors():
        picture = plot or out.with_suffix(".png")
        for path in (out, json_file, picture):
            check_folder(path)
        if resume and run is None:
            fail("--resume needs --run, the folder of the training to go on with.")
        if watch is not None and run is None:
            fail("--watch needs --run FOLDER, where what was seen is kept.")
        if not report.can_draw():
            if plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say("no picture without matplotlib. For one, run: pip install 'gradcore[plot]'")
        if minutes is None and updates is None:
            minutes = 2.0
        wanted = job.Job(
            paths=files,
            roles=Roles(
                target=target,
                features=None if features is None else _names("--features", features),
                sequence=sequence,
                order=order,
                per=per.value,
                ahead=ahead,
                text=_names("--text", text) if text is not None else (),
            ),
            wanted=_wanted(delimiter, encoding, columns),
            missing=missing.value,
            classify=classify,
            split=None if split is None else split.value,
            minutes=minutes,
            updates=updates,
            out=out,
            options=train.Options(
                cell=cell.value,
                hidden=hidden,
                layers=layers,
                lr=lr,
                batch=batch,
                window=window,
                patience=patience,
                seed=seed,
                run=run,
                resume=resume,
                threads=threads,
                memory=memory,
                quiet=quiet,
                watch=watch,
                stability=stability,
                stable_lr=stable_lr,
                constrain=None if constrain is None else constrain.value,
                limit=1.0 if limit is None else limit,
            ),
        )
        result = job.run(wanted, (lambda line: None) if quiet else say)
        if result is None:
            say(f"interrupted; the best net so far was saved to {out}")
            raise typer.Exit(EXIT_INTERRUPTED)
        print(report.table(result))
        if json_file is not None:
            report.write_json(json_file, result)
        saved = [out, json_file]
        if report.can_draw():
            report.draw(picture, result)
            saved.append(picture)
        say(f"saved {', '.join(str(path) for path in saved if path)}")


@app.command("predict")
def predict_command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="NET", help="A net that `gradcore train csv` saved.", show_default=False
        ),
    ],
    files: Files,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where predictions go, as CSV. Default: the output."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column for each class.")
    ] = False,
    unseen: Annotated[
        UnseenName,
        typer.Option(
            help="What to do with texts that training has not seen: stop, or read as none."
        ),
    ] = UnseenName.error,
    delimiter: Delimiter = None,
    encoding: Encoding = "utf-8",
    columns: Columns = None,
    threads: Threads = None,
    memory: Memory = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell no notes.")] = False,
) -> None:
    """Apply a net of `gradcore train csv` to files with the same columns.

    Writes the sequence, the order and the prediction of each row, or of each sequence if the net
    was trained with --per sequence. Long sequences are run in windows, the state carried on.
    """
    with errors():
        check_folder(out)
        model = predict.load_model(checkpoint)
        try:
            told = predict.write(
                model,
                files,
                sys.stdout if out is None else out,
                _wanted(delimiter, encoding, columns),
                with_probabilities=probabilities,
                unseen=unseen.value,
                threads=threads,
                memory=memory,
            )
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader, such as head, has seen enough; Python would complain at exit otherwise.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_ERROR) from None
        if not quiet:
            for note in told.notes:
                say(note)
            if out is not None:
                say(f"saved {told.rows:,} predictions to {out}")


def _names(option: str, given: str) -> tuple[str, ...]:
    """The names of a list that commas separate; a name with a comma is quoted as in CSV."""
    import csv as csv_module

    found = [name.strip() for name in next(csv_module.reader([given], skipinitialspace=True), [])]
    if not found or not all(found):
        fail(f"{option} must be names with commas between them, such as a,b,c; got {given!r}.")
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        fail(f"{option} names {twice!r} twice. Name each column once.")
    return tuple(found)


def _wanted(delimiter: str | None, encoding: str, columns: str | None) -> Wanted:
    """How files are written."""
    if delimiter is not None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            fail(f"--delimiter must be one character, or tab; got {delimiter!r}.")
    header = None if columns is None else _names("--columns", columns)
    return Wanted(delimiter=delimiter, encoding=encoding, header=header)
