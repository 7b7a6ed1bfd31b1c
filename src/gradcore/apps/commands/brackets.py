"""`gradcore train brackets` and `gradcore check`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..tasks.brackets import check as brackets_check
from ..tasks.brackets import job, report, sources, train
from .app import (
    EXIT_ERROR,
    EXIT_FINDINGS,
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


class CellName(str, Enum):
    """Names of the recurrent cells, as typer shows them."""

    lstm = "lstm"
    gru = "gru"
    rnn = "rnn"
    antisymmetric = "antisymmetric"


@train_app.command()
def brackets(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Files or folders of Python, C, C++, JavaScript, Java or JSON. Without any: this "
            "interpreter's standard library and the C and C++ headers of the system.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Time for everything: lexing, training, judging.")
    ] = 3.75,
    characters: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train on this many characters however long it takes, instead of by the clock: "
            "the same seed then gives the same net to the bit.",
        ),
    ] = None,
    cell: Annotated[CellName, typer.Option(help="Recurrent cell.")] = CellName.lstm,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden units.")] = 128,
    skip: SkipLag = None,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "--checkpoint", help="Where the trained net is saved.")
    ] = Path("brackets.safetensors"),
    run: RunFolder = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the training in --run: to the same bits with --characters, for what "
            "is left of --minutes without.",
        ),
    ] = False,
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where a picture of accuracy by distance goes. Default: beside the net, if "
            "matplotlib is installed.",
        ),
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
    """Teach a net which bracket must be closed next, on real source code.

    Reads files character by character; brackets inside strings and comments do not count. Windows
    grow from 256 to more than 10,000 characters, with exact gradients over all of them. Prints how
    often the net is right on files it has never seen, by distance to the opening bracket.

    Ctrl-C saves the net as it is and exits with 130; --run FOLDER --resume goes on with it.
    """
    options = train.Options(
        cell=cell.value,
        hidden=hidden,
        skip=skip,
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
        for path in (out, json_file, picture):
            check_folder(path)
        if not report.can_draw():
            if plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say("no picture without matplotlib. For one, run: pip install 'gradcore[plot]'")
        wanted = job.Job(paths or (), minutes, characters, out, run, resume, options, quiet)
        result = job.run(wanted, (lambda line: None) if quiet else say)
        if result is None:
            interrupted(out, run)
        print(report.table(result))
        if json_file is not None:
            report.write_json(json_file, result)
        saved = [out, json_file]
        if report.can_draw():
            report.draw(picture, result)
            saved.append(picture)
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
    threads: Threads = None,
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
