"""The commands of `gradcore`: facts about the build, jobs on real data, checks with their nets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import gradcore as gd
from gradcore.tasks.brackets import check as brackets_check
from gradcore.tasks.brackets import job, report, sources, train

EXIT_FINDINGS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="gradcore",
    help="Exact gradients through very long recurrences.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    help="Train a net on real data, from files to figures.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(train_app, name="train")


class CellName(str, Enum):
    """Names of the recurrent cells, as typer shows them."""

    lstm = "lstm"
    gru = "gru"
    rnn = "rnn"


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show version, compiler, instruction sets, OpenMP runtime and threads."""
    facts = asdict(gd.build_info())
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        text = " ".join(value) if isinstance(value, tuple) else str(value)
        print(f"{name.replace('_', ' '):<15} {text or 'unknown'}")


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
    skip: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="K", help="Add a learned connection to the output K steps ago."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and windows.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "--checkpoint", help="Where the trained net is saved.")
    ] = Path("brackets.safetensors"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where a picture of accuracy by distance goes. Default: beside the net, if "
            "matplotlib is installed.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads at most.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of a training step, such as 64MB.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Teach a net which bracket must be closed next, on real source code.

    Reads files character by character; brackets inside strings and comments do not count. Windows
    grow from 256 to more than 10,000 characters, with exact gradients over all of them. Prints how
    often the net is right on files it has never seen, by distance to the opening bracket.

    Ctrl-C saves the net as it is and exits with 130.
    """
    options = train.Options(
        cell=cell.value, hidden=hidden, skip=skip, seed=seed, threads=threads, memory=memory
    )
    with _errors():
        picture = plot or out.with_suffix(".png")
        for path in (out, json_file, picture):
            _check_folder(path)
        if not report.can_draw():
            if plot is not None:
                _fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            _say("no picture without matplotlib. For one, run: pip install 'gradcore[plot]'")
        wanted = job.Job(paths or (), minutes, characters, out, options, quiet)
        result = job.run(wanted, (lambda line: None) if quiet else _say)
        if result is None:
            _say(f"interrupted; the net as it is was saved to {out}")
            raise typer.Exit(EXIT_INTERRUPTED)
        print(report.table(result))
        if json_file is not None:
            report.write_json(json_file, result)
        saved = [out, json_file]
        if report.can_draw():
            report.draw(picture, result)
            saved.append(picture)
        _say(f"saved {', '.join(str(path) for path in saved if path)}")


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
    with _errors():
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
                _say(f"{path}: cannot be read: {error.strerror or error}")
        found = False
        for finding in brackets_check.check_texts(net, params, texts, threads=threads):
            if finding is not None:
                found = True
                print(finding)
    if unread or found:
        raise typer.Exit(EXIT_ERROR if unread else EXIT_FINDINGS)


@contextmanager
def _errors() -> Iterator[None]:
    """Turns errors of gradcore and the system into a line on stderr and an exit code."""
    try:
        yield
    except (gd.GradcoreError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _check_folder(path: Path | None) -> None:
    # Told before the work rather than after it.
    if path is not None and not path.absolute().parent.is_dir():
        _fail(f"cannot write {path}: {path.absolute().parent} is not a folder. Make it first.")


def _say(line: str) -> None:
    print(f"gradcore: {line}", file=sys.stderr, flush=True)


def _fail(line: str) -> None:
    _say(line)
    raise typer.Exit(EXIT_ERROR)
