"""`gradcore train adding`, `copy`, `mqar` and `enhancer`."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..._training.runs import LAST
from ..tasks.synthetic import job as jobs
from ..tasks.synthetic import report
from ..tasks.synthetic.recipes import TASKS, default
from .app import (
    EXIT_INTERRUPTED,
    Constrain,
    Limit,
    Stability,
    StableLr,
    Watch,
    check_folder,
    errors,
    fail,
    say,
    train_app,
)


class CellName(str, Enum):
    """Names of the nets, as typer shows them."""

    gru = "gru"
    lstm = "lstm"
    rnn = "rnn"
    skip = "skip"
    tanh = "tanh"


Length = Annotated[
    int | None,
    typer.Option(
        "--length",
        "--steps",
        "--distance",
        min=1,
        metavar="T",
        help="Steps of a sequence; of the delay for copy; from enhancer to promoter.",
        show_default=False,
    ),
]
Pairs = Annotated[
    int | None, typer.Option(min=1, help="Pairs of key and value.", show_default=False)
]
Symbols = Annotated[
    int | None,
    typer.Option(min=1, help="Keys and values to choose from, each.", show_default=False),
]
Cell = Annotated[
    CellName | None,
    typer.Option(
        help="Net: gru, lstm, rnn (relu, from the identity), skip (a relu rnn with a learned "
        "connection to its output one step ago) or tanh (the classical rnn). Default: what learns "
        "the task best.",
        show_default=False,
    ),
]
Hidden = Annotated[int | None, typer.Option(min=1, help="Hidden units.", show_default=False)]
Sequences = Annotated[
    int | None, typer.Option("--batch", min=1, help="Sequences per update.", show_default=False)
]
Rate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of Adam.", show_default=False)
]
Stages = Annotated[
    bool | None,
    typer.Option(
        "--stages/--no-stages",
        help="Train on short sequences first, growing to T; scores are at T always.",
        show_default="--stages",
    ),
]
Updates = Annotated[
    int | None,
    typer.Option(min=1, help="Updates at most; it ends when solved.", show_default=False),
]
Minutes = Annotated[float | None, typer.Option(min=0.0, help="Minutes at most.")]
Every = Annotated[
    int | None, typer.Option(min=1, help="Updates between evaluations.", show_default=False)
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of weights and training sequences.", show_default="0"),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        "--out",
        metavar="FOLDER",
        help="Where the training is kept. Default: a new folder named after the task.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the training in --run, to the same bits."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Where a picture of the curve goes. Default: curve.png in the folder of the run, if "
        "matplotlib is installed.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads at most.")]
Memory = Annotated[str | None, typer.Option(help="Memory budget of a training step, such as 64MB.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show baseline and result only.")]


Background = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A genome that motifs are planted in: GenBank or FASTA, plain or gzip; its last fifth "
        "is for held-out sequences only. Default: a synthetic one.",
        show_default=False,
    ),
]


# Options that all tasks have, with their defaults.
COMMON: dict[str, tuple[Any, Any]] = {
    "cell": (Cell, None),
    "hidden": (Hidden, None),
    "batch": (Sequences, None),
    "lr": (Rate, None),
    "stages": (Stages, None),
    "updates": (Updates, None),
    "minutes": (Minutes, None),
    "every": (Every, None),
    "seed": (Seed, None),
    "run": (Run, None),
    "resume": (Resume, False),
    "json_file": (JsonFile, None),
    "plot": (Plot, None),
    "constrain": (Constrain, None),
    "limit": (Limit, None),
    "watch": (Watch, None),
    "stability": (Stability, None),
    "stable_lr": (StableLr, False),
    "threads": (Threads, None),
    "memory": (Memory, None),
    "quiet": (Quiet, False),
}
GO_ON = "Ctrl-C saves the training and exits with 130; --run FOLDER --resume goes on with it."


def _command(name: str, told: str, **own: Any) -> None:
    """Adds a command; own: options that other tasks do not have."""
    options = {"length": (Length, None), **own, **COMMON}

    def command(**given: Any) -> None:
        _train(name, given)

    # typer makes the options of a command from its signature.
    command.__annotations__ = {option: kind for option, (kind, _) in options.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                option, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind
            )
            for option, (kind, value) in options.items()
        ]
    )
    train_app.command(name, help=f"{inspect.cleandoc(told)}\n\n{GO_ON}")(command)


_command(
    "adding",
    """Add the two marked numbers of a sequence of T numbers (default 1,000).

    Guessing has a mean squared error of 0.167; solved at a held-out one under 0.01. Hochreiter and
    Schmidhuber 1997.
    """,
)
_command(
    "copy",
    """Say ten symbols again after a delay of T steps (default 500).

    Guessing has a loss of 10*log(8)/(T+20); solved at a held-out accuracy of the ten of 0.99 with
    a loss under a tenth of that. Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016.
    """,
)
_command(
    "enhancer",
    """Tell whether an enhancer motif fits a promoter motif D bases on (default 500).

    Motifs are planted in a genome; neither tells anything alone. Guessing is right every second
    time; solved at a held-out accuracy of 0.95. --length or --distance is D.
    """,
    background=(Background, None),
)
_command(
    "mqar",
    """Recall the values of keys: pairs first, then queries in a sequence of T (default 256).

    Guessing among the values shown is right once in as many as there are; solved at a held-out
    accuracy of 0.99. Arora et al. 2023.
    """,
    pairs=(Pairs, None),
    symbols=(Symbols, None),
)


def _train(name: str, options: dict[str, Any]) -> None:
    options["cell"] = options["cell"] and options["cell"].value
    with errors():
        job = _job(name, options)
        assert job.run is not None
        json_file, picture = options["json_file"], options["plot"] or job.run / "curve.png"
        check_folder(json_file)
        check_folder(options["plot"])
        if not report.can_draw():
            if options["plot"] is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say("no picture without matplotlib. For one, run: pip install 'gradcore[plot]'")
        print(report.heading(job), flush=True)
        if not options["quiet"]:
            print(report.columns(job), flush=True)

        def tell(point: jobs.Point) -> None:
            if not options["quiet"]:
                print(report.line(point), flush=True)

        result = jobs.run(job, tell)
        saved = [job.run]
        if json_file is not None:
            report.write_json(json_file, result)
            saved.append(json_file)
        if report.can_draw() and result.curve:
            report.draw(picture, result)
            if picture.parent != job.run:
                saved.append(picture)
        if result.interrupted:
            say(
                f"interrupted after {result.updates:,} updates. To go on: gradcore train {name} "
                f"--run {job.run} --resume"
            )
            raise typer.Exit(EXIT_INTERRUPTED)
        print(report.verdict(result))
        say(f"saved {', '.join(map(str, saved))}")


def _job(name: str, options: dict[str, Any]) -> jobs.Job:
    """What the options ask for; those that a resumed run leaves open are as it began."""
    run, resume = options["run"], options["resume"]
    if resume and run is None:
        fail("--resume needs --run FOLDER, the folder of the training to go on with.")
    if run is not None and not resume and (run / LAST).exists():
        fail(f"{run} already holds a training. Go on with it by --resume, or name another folder.")
    sizes = _said(options, "length", "pairs", "symbols")
    if options.get("background") is not None:
        sizes["background"] = str(options["background"].absolute())
    settings = _said(options, "hidden", "batch", "lr", "updates", "every", "limit")
    if options["constrain"] is not None:
        settings["constrain"] = options["constrain"].value
    earlier = jobs.recorded(run) if resume else None
    if earlier is not None:
        task, recipe, seed = earlier
        if task.name != name:
            fail(f"{run} holds a training of {task.name}, not of {name}.")
        task = dataclasses.replace(task, **sizes)
        settings |= _said(options, "cell")
    else:
        kind = TASKS[name]
        task, seed = kind(**{"length": kind.usual, **sizes}), 0
        recipe = default(task, options["cell"])
    if options["stages"] is not None and not options["stages"]:
        settings["first"] = 0
    return jobs.Job(
        task=task,
        recipe=dataclasses.replace(recipe, **settings),
        seed=seed if options["seed"] is None else options["seed"],
        minutes=options["minutes"],
        run=run or _fresh_folder(f"{name}-{task.length}"),
        resume=resume,
        threads=options["threads"],
        watch=options["watch"],
        stability=options["stability"],
        stable_lr=options["stable_lr"],
        memory=options["memory"],
    )


def _said(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}


def _fresh_folder(name: str) -> Path:
    """The first of name, name-2, name-3 and so on that is not there."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
