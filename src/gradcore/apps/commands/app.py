"""The application itself, and what every command needs: exit codes, messages, checks of paths."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import gradcore as gd

from ..._training.runs import LAST

EXIT_FINDINGS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class Commands(TyperGroup):
    """Lists commands by name, each with its whole first sentence."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(1000)) for name, found in commands if found]
            )


# No markup: plain text reads the same on a terminal, in a pipe and aloud, and takes half the lines
# of the boxes that typer draws with rich.
app = typer.Typer(
    name="gradcore",
    cls=Commands,
    help="Exact gradients through very long recurrences.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    cls=Commands,
    help="Train a net on real data, from files to figures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(train_app, name="train")


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"gradcore {gd.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """What the command without a command takes."""


# Options of several trainings.
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads at most.")]
Memory = Annotated[str | None, typer.Option(help="Memory budget of a training step, such as 64MB.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights and windows.")]
SkipLag = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Add a learned connection to the output K steps ago."),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A folder that keeps the training, to go on with it and for `gradcore plot`.",
    ),
]
Watch = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Every N updates record how far back gradients reach and the Lyapunov exponents, and "
        "name the layer and the steps behind a clipped update; for `gradcore plot`.",
        show_default=False,
    ),
]


Stability = Annotated[
    int | None,
    typer.Option(
        "--stability",
        min=1,
        metavar="N",
        help="Every N updates measure the curvature, and tell when the steps are too large for it.",
        show_default=False,
    ),
]
StableLr = Annotated[
    bool,
    typer.Option(
        "--stable-lr",
        help="Hold the learning rate where steps are stable, by the curvature every --stability "
        "(5) updates.",
    ),
]


class ConstrainName(str, Enum):
    """Constraints, as typer shows them."""

    spectral = "spectral"
    orthogonal = "orthogonal"


Constrain = Annotated[
    ConstrainName | None,
    typer.Option(
        help="Keep recurrent weights at a spectral norm of --limit at most, or orthogonal (gate by "
        "gate).",
        show_default=False,
    ),
]
Limit = Annotated[
    float | None,
    typer.Option(help="For --constrain spectral. Default: 1.0.", show_default=False),
]


@contextmanager
def errors() -> Iterator[None]:
    """Turns errors of gradcore and the system into a line on stderr and an exit code."""
    try:
        yield
    except (gd.GradcoreError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def check_folder(path: Path | None) -> None:
    """Fails unless a file can be made at path; told before the work rather than after it."""
    if path is not None and not path.absolute().parent.is_dir():
        fail(f"cannot write {path}: {path.absolute().parent} is not a folder. Make it first.")


def check_run(run: Path | None, resume: bool, watch: int | None) -> None:
    """Fails where the options of a run do not fit together, or it is there already."""
    if resume and run is None:
        fail("--resume needs --run FOLDER, the folder of the training to go on with.")
    if watch is not None and run is None:
        fail("--watch needs --run FOLDER, where what was seen is kept.")
    if run is not None and not resume and (run / LAST).exists():
        fail(f"{run} already holds a training. Go on with it by --resume, or name another.")


def interrupted(out: Path, run: Path | None) -> NoReturn:
    """Says what Ctrl-C has left, and ends with EXIT_INTERRUPTED."""
    say(f"interrupted; the net as it is was saved to {out}")
    if run is not None:
        say(f"to go on, give the same command with --resume; it is kept in {run}")
    raise typer.Exit(EXIT_INTERRUPTED)


def say(line: str) -> None:
    """A line on stderr."""
    print(f"gradcore: {line}", file=sys.stderr, flush=True)


def fail(line: str) -> NoReturn:
    """A line on stderr, and the end with EXIT_ERROR."""
    say(line)
    raise typer.Exit(EXIT_ERROR)
