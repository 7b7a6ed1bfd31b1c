"""`gradcore train csv` and `gradcore predict`."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ..exit_codes import EXIT_INTERRUPTED
from ..settings import Resources, Safeguards, option
from ..streams import table_output
from ..tasks.table import job, predict, report, train
from ..tasks.table.roles import Per, Roles
from ..tasks.table.schema import Missing, Unseen
from ..tasks.table.sequences import Split
from ..tasks.table.wanted import SkipRows, Wanted
from . import kept
from .app import app, check_outputs, errors, fail, say, show, train_app
from .options import Output, Quiet, check_run, spread, teller

FILES = "CSV (also gzipped), .npy, .npz or Parquet; the rows of several are joined."
Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help=FILES,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Writing:
    """The format of the files; what is not given is detected."""

    delimiter: str | None = option(
        None, "Separator of the cells of a CSV file: a character, tab or space. Default: detected."
    )
    encoding: str | None = option(
        None, "Encoding of a CSV file. Default: utf-8, or that of its byte-order mark."
    )
    columns: str | None = option(
        None,
        "Names of all columns, for a CSV or .npy file without names.",
        metavar="A,B,...",
    )
    decimal: str | None = option(
        None,
        "Decimal sign, . or , (the other one may then separate thousands). Default: detected; "
        "ambiguous numbers are refused.",
        metavar="SIGN",
    )
    missing_value: list[str] | None = option(
        None,
        "A number or text that stands for a missing value, such as -999; may be given several "
        "times. Empty cells, NA and nan always do.",
        metavar="VALUE",
    )
    skip_rows: str | None = option(
        None,
        "Lines of a CSV file that do not belong to the table: 4 for the first four, 3,4 or 3-4 for "
        "lines of these numbers.",
        metavar="LINES",
    )
    header_row: int | None = option(
        None,
        "Line of a CSV file that names the columns, counted from 1; lines above it are left out.",
        min=1,
        metavar="N",
    )
    comment: str | None = option(
        None,
        "Lines of a CSV file that begin with this are left out. Default: #, if the file begins "
        "with it.",
        metavar="SIGN",
    )
    date_format: str | None = option(
        None,
        "Format of the dates in --order, as in strptime, such as '%d.%m.%Y %H:%M', or day-first "
        "or month-first. Default: detected; ambiguous dates are refused.",
        metavar="FORMAT",
    )

    def wanted(self) -> Wanted:
        """The format as the readers of tables take it."""
        delimiter = self.delimiter
        if delimiter is not None:
            delimiter = {"tab": "\t", "\\t": "\t", "space": " "}.get(delimiter, delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                fail(f"--delimiter must be one character, tab or space; got {delimiter!r}.")
        return Wanted(
            delimiter=delimiter,
            encoding=self.encoding,
            header=None if self.columns is None else _names("--columns", self.columns),
            decimal=self.decimal,
            missing_values=tuple(self.missing_value or ()),
            skip_rows=None if self.skip_rows is None else SkipRows.parse(self.skip_rows),
            header_row=self.header_row,
            comment=self.comment,
            date_format=self.date_format,
        )


@dataclass(frozen=True)
class Table:
    """The roles of the columns, the rows to learn from and the length of the training."""

    features: str | None = option(
        None,
        "Columns to learn from. Default: all others except counters without a name.",
        metavar="A,B,...",
    )
    sequence: str | None = option(
        None, "Column that names a row's sequence. Default: a file is a sequence."
    )
    order: str | None = option(
        None, "Column to sort a sequence by: numbers or dates. Default: as in the file."
    )
    per: Per = option("step", "A target in every step, or one for the whole sequence.")
    ahead: str = option(
        "0",
        "Forecast the target N steps of --order ahead (N rows without it), or a time ahead, such "
        "as 15min, 3h or 1d.",
        metavar="N",
        show_default=False,
    )
    classify: bool | None = option(
        None,
        "Learn classes or a number. Default: classes if the target is text or has 10 "
        "whole numbers at most.",
        "--classify/--regress",
        show_default=False,
    )
    text: str | None = option(
        None, "Columns that hold names even if they look like numbers.", metavar="A,B,..."
    )
    missing: Missing = option(
        "error",
        "What to do with missing values: stop, drop the row, or read it as zero, as the "
        "mean, or as the last value before.",
    )
    split: Split | None = option(
        None,
        "Hold out whole sequences, or the last rows of each. Default: sequences if there are 10 "
        "or more, but the last rows with --ahead.",
    )
    minutes: float | None = option(
        None,
        "The most minutes of training; it ends earlier when the net has stopped improving. "
        "Default: 10, or none with --updates.",
        min=0.01,
    )
    updates: int | None = option(
        None,
        "Train for this many updates at most.",
        min=1,
    )

    def roles(self, target: str) -> Roles:
        """The roles of the columns as the job takes them."""
        return Roles(
            target=target,
            features=None if self.features is None else _names("--features", self.features),
            sequence=self.sequence,
            order=self.order,
            per=self.per,
            ahead=self.ahead,
            text=_names("--text", self.text) if self.text is not None else (),
        )


@dataclass(frozen=True)
class TableOutput(Output):
    """The files that `train csv` writes."""

    out: Path = option(
        Path("table.safetensors"), "Where the trained net is saved.", "--out", "--checkpoint"
    )
    run: Path | None = option(
        None, "Keep metrics and checkpoints of the training here.", metavar="FOLDER"
    )
    plot: Path | None = option(
        None,
        "Where a picture of the predictions goes. Default: beside the net, if matplotlib "
        "is installed.",
        metavar="FILE",
    )


@dataclass(frozen=True)
class TableResources(Resources):
    """Threads and memory that calls of the net may use."""

    memory: str | None = option(None, "Memory budget of a call of the net, such as 64MB.")


@train_app.command("csv")
@spread
def csv(
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help=FILES, show_default=False)
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to learn.", show_default=False)] = None,
    table: Table,
    options: train.Options,
    output: TableOutput,
    writing: Writing,
    safeguards: Safeguards,
    resources: TableResources,
    quiet: Quiet = False,
) -> None:
    """Train a sequence model on your own table: a row per time step, named columns.

    Standardises numbers, treats texts as categories, holds out 15% to choose the net and 15% to
    score it, and prints the scores of the net and of simple baselines. `gradcore predict` applies
    the net to files with the same columns.

    Ctrl-C saves the best net so far and exits with 130; --run FOLDER --resume continues the
    training and needs no other option.
    """
    with errors():
        # A run that is there already is refused by the training, which knows what it holds.
        check_run(output.run, output.resume, safeguards.watch, fresh=False)
        given = _Given(table, options, output, writing, safeguards, resources)
        if output.resume and output.run is not None and (files is None or target is None):
            files, target, given = _recalled(output.run, files, target, given)
        if not files or target is None:
            fail(
                "name the files of the table and the column to learn: gradcore train csv FILE "
                "--target COLUMN; or continue a training: --run FOLDER --resume."
            )
        _train(files, target, given, quiet)


@dataclass(frozen=True)
class _Given:
    """All options of `train csv`."""

    table: Table
    options: train.Options
    output: TableOutput
    writing: Writing
    safeguards: Safeguards
    resources: TableResources


def _recalled(
    run: Path, files: list[Path] | None, target: str | None, given: _Given
) -> tuple[list[Path], str, _Given]:
    """The files, the target and the options of the training in a folder, where none were given."""
    found, learned, options = kept.recall(run, "train csv", vars(given))
    given = replace(given, **options)
    if files is not None:
        return files, target or learned, given
    piped = [path for path in found if path.parts[:2] in (("/", "dev"), ("/", "proc"))]
    if piped:
        fail(
            f"{run} was trained on a table that came through {piped[0]}, which is not kept. Name "
            "the files again."
        )
    return found, target or learned, given


def _train(files: list[Path], target: str, given: _Given, quiet: bool) -> None:
    table, output = given.table, given.output
    output.check(inputs=files, note=True)

    def on_training() -> None:
        if output.run is not None:
            kept.remember(output.run, "train csv", files, target, vars(given))

    unlimited = table.minutes is None and table.updates is None
    wanted = job.Job(
        paths=files,
        roles=table.roles(target),
        wanted=given.writing.wanted(),
        missing=table.missing,
        classify=table.classify,
        split=table.split,
        minutes=10.0 if unlimited else table.minutes,
        updates=table.updates,
        out=output.out,
        options=replace(
            given.options,
            run=output.run,
            resume=output.resume,
            quiet=quiet,
            safeguards=given.safeguards,
            resources=given.resources,
        ),
        on_training=on_training,
    )
    result = job.run(wanted, teller(quiet))
    if isinstance(result, train.Trained):
        say(f"interrupted {report.so_far(result)}")
        say(f"interrupted; the best net so far was saved to {output.out}")
        if output.run is not None:
            again = shlex.join(["gradcore", "train", "csv", "--run", str(output.run), "--resume"])
            say(f"to continue: {again}")
        raise typer.Exit(EXIT_INTERRUPTED)
    show(report.table(result))
    if output.json_file is not None:
        report.write_json(output.json_file, result)
    saved = [output.out, output.json_file]
    if report.can_draw():
        report.draw(output.picture, result)
        saved.append(output.picture)
    say(f"saved {', '.join(str(path) for path in saved if path)}")


@dataclass(frozen=True)
class Predictions:
    """The predictions to write and their file."""

    out: Path | None = option(
        None, "Where predictions go, as CSV. Default: the output.", metavar="FILE"
    )
    probabilities: bool = option(False, "Add a column for each class.", "--probabilities")
    unseen: Unseen = option(
        "error", "What to do with texts that training has not seen: stop, or read as none."
    )


@app.command("predict")
@spread
def predict_command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="NET", help="A net that `gradcore train csv` saved.", show_default=False
        ),
    ],
    files: Files,
    predictions: Predictions,
    writing: Writing,
    resources: TableResources,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes.")] = False,
) -> None:
    """Apply a net of `gradcore train csv` to files with the same columns.

    Writes the sequence, the order and the prediction of each row, or of each sequence if the net
    was trained with --per sequence. Long sequences are run in windows, the state carried on.
    """
    out = predictions.out
    with errors():
        check_outputs(out, inputs=(checkpoint, *files))
        model = predict.load_model(checkpoint)
        with table_output() if out is None else nullcontext(out) as target:
            told = predict.write(
                model,
                files,
                target,
                writing.wanted(),
                with_probabilities=predictions.probabilities,
                unseen=predictions.unseen,
                threads=resources.threads,
                memory=resources.memory,
            )
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
