"""`gradcore train brackets` and `gradcore check`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ..settings import Resources, Safeguards, option
from ..tasks.brackets import check as brackets_check
from ..tasks.brackets import job, report, sources, train
from .app import EXIT_ERROR, EXIT_FINDINGS, app, errors, interrupted, say, train_app
from .options import Output, Quiet, check_run, spread, teller


@dataclass(frozen=True)
class BracketsOutput(Output):
    """The files that `train brackets` writes."""

    out: Path = option(
        Path("brackets.safetensors"), "Where the trained net is saved.", "--out", "--checkpoint"
    )
    resume: bool = option(
        False,
        "Go on with the training in --run: to the same bits with --characters, for what "
        "is left of --minutes without.",
        "--resume",
    )
    plot: Path | None = option(
        None,
        "Where a picture of accuracy by distance goes. Default: beside the net, if "
        "matplotlib is installed.",
        metavar="FILE",
    )


@dataclass(frozen=True)
class Length:
    """How long `train brackets` takes."""

    minutes: float = option(3.75, "Time for everything: lexing, training, judging.", min=0.05)
    characters: int | None = option(
        None,
        "Train on this many characters however long it takes, instead of by the clock: "
        "the same seed then gives the same net to the bit.",
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
            help="Files or folders of Python, C, C++, JavaScript, Java or JSON. Without any: this "
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
    """Teach a net which bracket must be closed next, on real source code.

    Reads files character by character; brackets inside strings and comments do not count. Windows
    grow from 256 to more than 10,000 characters, with exact gradients over all of them. Prints how
    often the net is right on files it has never seen, by distance to the opening bracket.

    Ctrl-C saves the net as it is and exits with 130; --run FOLDER --resume goes on with it.
    """
    with errors():
        check_run(output.run, output.resume, safeguards.watch)
        output.check(note=True)
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
        print(report.table(result))
        if output.json_file is not None:
            report.write_json(output.json_file, result)
        saved = [output.out, output.json_file]
        if report.can_draw():
            report.draw(output.picture, result)
            saved.append(output.picture)
        say(f"saved {', '.join(str(path) for path in saved if path)}")


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files to check.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A net that `gradcore train brackets` saved. Default: the one that comes with "
            "gradcore."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads at most.")] = None,
) -> None:
    """Point at the first line where a file's brackets go wrong, as a trained net sees it.

    Prints FILE:LINE:COLUMN: MESSAGE. Exits with 0 if nothing was found, 1 if something was, 2 if a
    file or the checkpoint cannot be read. The net learned from code; it can be wrong.
    """
    with errors():
        net, params = brackets_check.load_checkpoint(
            checkpoint or brackets_check.default_checkpoint()
        )
        texts = []
        unread = False
        for path in files:
            try:
                texts.append((path, sources.read_text(path)))
            except OSError as error:
                unread = True
                say(f"{path}: cannot be read: {error.strerror or error}")
        found = False
        for finding in brackets_check.check_texts(net, params, texts, threads=threads):
            if finding is not None:
                found = True
                print(finding)
    if unread or found:
        raise typer.Exit(EXIT_ERROR if unread else EXIT_FINDINGS)
