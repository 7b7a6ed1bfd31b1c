"""`gradcore train brackets` and `gradcore check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ...errors import ArgumentError
from ..exit_codes import EXIT_ERROR, EXIT_FINDINGS
from ..settings import Resources, Safeguards, option
from ..tasks.brackets import check as brackets_check
from ..tasks.brackets import job, report, sources, train
from .app import app, errors, interrupted, say, show, train_app
from .options import Output, Quiet, check_run, spread, teller


@dataclass(frozen=True)
class BracketsOutput(Output):
    """The files that `train brackets` writes."""

    out: Path = option(
        Path("brackets.safetensors"), "Where the trained net is saved.", "--out", "--checkpoint"
    )
    resume: bool = option(
        False,
        "Continue the training in --run. The result has the same bits as an uninterrupted "
        "training, unless --minutes ends it.",
        "--resume",
    )
    plot: Path | None = option(
        None,
        "File for a picture of accuracy by distance. Default: beside the net, if matplotlib is "
        "installed.",
        metavar="FILE",
    )


@dataclass(frozen=True)
class Length:
    """How long `train brackets` takes at most."""

    minutes: float = option(
        10.0,
        "The most minutes for everything: lexing, training and evaluation. The training ends "
        "earlier when the net is good or has stopped improving.",
        min=0.05,
    )
    characters: int | None = option(
        None,
        "Train on at most this many characters, however long it takes, instead of --minutes.",
        min=1,
    )


@train_app.command()
@spread
def brackets(
    *,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Files or folders of Python, C, C++, JavaScript, Java or JSON. Default: this "
            "interpreter's standard library and the C and C++ headers of the system.",
            show_default=False,
        ),
    ] = None,
    length: Length,
    options: train.Options,
    output: BracketsOutput,
    safeguards: Safeguards,
    resources: Resources,
    quiet: Quiet = False,
) -> None:
    """Train a net on real source code to know which bracket must be closed next.

    The net reads files character by character; brackets inside strings and comments do not count.
    Windows grow from 256 to 24,576 characters, with exact gradients over each window. Validation
    files decide when windows grow and when the training ends; the same seed gives the same net to
    the bit, unless --minutes ends the training. The command prints how often the net is right on
    files that it was not trained on, by distance to the opening bracket.

    Ctrl-C saves the current net and exits with 130; --run FOLDER --resume continues the training.
    """
    with errors():
        check_run(output.run, output.resume, safeguards.watch)
        output.check(inputs=_read(paths or (), output), note=True)
        wanted = job.Job(
            paths or (),
            length.minutes,
            length.characters,
            output.out,
            output.run,
            output.resume,
            replace(options, safeguards=safeguards, resources=resources),
            quiet,
        )
        result = job.run(wanted, teller(quiet))
        if result is None:
            interrupted(output.out, output.run)
        show(report.table(result))
        if output.json_file is not None:
            report.write_json(output.json_file, result)
        saved = [output.out, output.json_file]
        if report.can_draw():
            report.draw(output.picture, result)
            saved.append(output.picture)
        say(f"saved {', '.join(str(path) for path in saved if path)}")
        say(report.next_steps(output.out))


def _read(paths: Sequence[Path], output: Output) -> list[Path]:
    """The files that are read, and the outputs that would be found as sources in a folder."""
    outputs = [path for path in (output.out, output.json_file, output.picture) if path is not None]
    folders = [path.resolve() for path in paths if path.is_dir()]
    return [
        *paths,
        *(
            path
            for path in outputs
            if path.is_file()
            and sources.language_of(path) is not None
            and any(folder in path.resolve().parents for folder in folders)
        ),
    ]


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files to check.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A net that `gradcore train brackets` saved. Default: the net that is part of "
            "gradcore."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Largest number of threads.")] = None,
) -> None:
    """Find the first line where the brackets of a file are wrong, by a trained net.

    Prints FILE:LINE:COLUMN: MESSAGE. Exits with 0 if nothing was found, 1 if something was, and 2
    if a file or the checkpoint cannot be read. The net has learned from code and can be wrong.
    """
    with errors():
        checker = brackets_check.load_checkpoint(checkpoint or brackets_check.default_checkpoint())
        texts = []
        unread = False
        for path in files:
            try:
                text = sources.read_text(path)
                if "\0" in text:
                    raise ArgumentError(
                        f"{path} holds zero bytes: it is binary data, or text that is not in UTF-8."
                    )
                texts.append((path, text))
            except OSError as error:
                unread = True
                say(f"{path}: cannot be read: {error.strerror or error}")
            except ArgumentError as error:
                unread = True
                say(str(error))
        found = False
        for finding in brackets_check.check_texts(checker, texts, threads=threads):
            if finding is not None:
                found = True
                show(finding)
    if unread or found:
        raise typer.Exit(EXIT_ERROR if unread else EXIT_FINDINGS)
