"""`gradcore train adding`, `copy`, `mqar` and `enhancer`."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..exit_codes import EXIT_INTERRUPTED
from ..settings import Resources, Safeguards, option
from ..tasks.synthetic import job as jobs
from ..tasks.synthetic import report
from ..tasks.synthetic.recipes import TASKS, default
from .app import check_outputs, errors, fail, say, show, train_app
from .options import check_run, run_files, spread

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show only the baseline and the result.")
]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a task's sequences; None means the usual size."""

    length: int | None = option(
        None,
        "Steps of a sequence; for copy, steps of the delay; for enhancer, bases from enhancer to "
        "promoter.",
        "--length",
        "--steps",
        "--distance",
        min=1,
        metavar="T",
        show_default=False,
    )

    def files(self) -> list[Path]:
        """The files that the task reads."""
        return [path for path in vars(self).values() if isinstance(path, Path)]

    def said(self) -> dict[str, Any]:
        """The sizes that were given, as arguments of the task."""
        found = _said(self)
        if "background" in found:
            found["background"] = str(found["background"].absolute())
        return found


@dataclass(frozen=True)
class EnhancerSizes(Sizes):
    """The sizes of `train enhancer`, and the genome that its motifs are planted in."""

    background: Path | None = option(
        None,
        "A genome in which motifs are planted: GenBank or FASTA, plain or gzip. Its last fifth is "
        "used only for held-out sequences. Default: a synthetic genome.",
        metavar="FILE",
        show_default=False,
    )


@dataclass(frozen=True)
class MqarSizes(Sizes):
    """The sizes of `train mqar`."""

    pairs: int | None = option(
        None, "Pairs of key and value in a sequence.", min=1, show_default=False
    )
    symbols: int | None = option(
        None, "Number of different keys, and of different values.", min=1, show_default=False
    )


@dataclass(frozen=True)
class Recipe:
    """The net and its training; None means the value that suits the task."""

    cell: Literal["gru", "lstm", "rnn", "skip", "tanh"] | None = option(
        None,
        "The net: gru, lstm, rnn (relu, starting from the identity), skip (a relu rnn with a "
        "learned connection to its output one step ago) or tanh (the classical rnn). Default: the "
        "one that learns the task best.",
        show_default=False,
    )
    hidden: int | None = option(None, "Hidden units.", min=1, show_default=False)
    batch: int | None = option(None, "Sequences per update.", "--batch", min=1, show_default=False)
    lr: float | None = option(None, "Learning rate of Adam.", "--lr", show_default=False)
    stages: bool | None = option(
        None,
        "Train on short sequences first, which grow to T; scores are always those at T.",
        "--stages/--no-stages",
        show_default="--stages",
    )
    updates: int | None = option(
        None,
        "Largest number of updates; the training ends when the task is solved.",
        min=1,
        show_default=False,
    )
    minutes: float | None = option(None, "Largest number of minutes.", min=0.0)
    every: int | None = option(None, "Updates between evaluations.", min=1, show_default=False)
    seed: int | None = option(
        None, "Seed of the weights and the training sequences.", min=0, show_default="0"
    )


@dataclass(frozen=True)
class Kept:
    """The files that the training writes."""

    run: Path | None = option(
        None,
        "Folder in which the training is kept. Default: a new folder named after the task.",
        "--run",
        "--out",
        metavar="FOLDER",
        show_default=False,
    )
    resume: bool = option(
        False,
        "Continue the training in --run; the result has the same bits as an uninterrupted one.",
        "--resume",
    )
    json_file: Path | None = option(None, "Write all numbers as JSON.", "--json", metavar="FILE")
    plot: Path | None = option(
        None,
        "File for a picture of the curve. Default: curve.png in the folder of the run, if "
        "matplotlib is installed.",
        metavar="FILE",
        show_default=False,
    )


GO_ON = "Ctrl-C saves the training and exits with 130; --run FOLDER --resume continues it."


def _command(name: str, told: str, sizes_of_task: type[Sizes] = Sizes) -> None:
    """Registers a command. sizes_of_task: the dataclass of the task's sizes."""

    def command(
        sizes: Sizes,
        recipe: Recipe,
        kept: Kept,
        safeguards: Safeguards,
        resources: Resources,
        quiet: Quiet = False,
    ) -> None:
        _train(name, sizes, recipe, kept, safeguards, resources, quiet)

    command.__annotations__["sizes"] = sizes_of_task
    train_app.command(name, help=f"{inspect.cleandoc(told)}\n\n{GO_ON}")(spread(command))


_command(
    "adding",
    """Train a net to add the two marked numbers of a sequence of T numbers (default 1,000).

    Guessing has a mean squared error of 0.167; the task is solved when the held-out error is below
    0.01. Hochreiter and Schmidhuber 1997.
    """,
)
_command(
    "copy",
    """Train a net to repeat ten symbols after a delay of T steps (default 500).

    Guessing has a loss of 10*log(8)/(T+20); the task is solved when the held-out accuracy of the
    ten symbols is 0.99 and the loss is below a tenth of that. Hochreiter and Schmidhuber 1997;
    Arjovsky et al. 2016.
    """,
)
_command(
    "enhancer",
    """Train a net to match an enhancer motif with a promoter motif D bases later (default 500).

    The motifs are planted in a genome, and neither of them gives the answer alone. Guessing is
    right in half of the cases; the task is solved at a held-out accuracy of 0.95. --length or
    --distance sets D.
    """,
    EnhancerSizes,
)
_command(
    "mqar",
    """Train a net to recall values of keys: pairs, then queries, in a sequence of T (default 256).

    Guessing one of the n values shown is right once in n times; the task is solved at a held-out
    accuracy of 0.99. Arora et al. 2023.
    """,
    MqarSizes,
)


def _train(
    name: str,
    sizes: Sizes,
    recipe: Recipe,
    kept: Kept,
    safeguards: Safeguards,
    resources: Resources,
    quiet: bool,
) -> None:
    with errors():
        job = _job(name, sizes, recipe, kept, safeguards, resources)
        assert job.run is not None
        json_file, picture = kept.json_file, kept.plot or job.run / "curve.png"
        # The training makes the folder of a new run, so a picture there cannot be checked yet.
        drawn = report.can_draw() and (kept.plot is not None or job.run.is_dir())
        check_outputs(
            json_file,
            inputs=(*run_files(job.run), *sizes.files()),
            pictures=(picture,) if drawn else (),
        )
        if not report.can_draw():
            if kept.plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            say(
                "there is no picture without matplotlib. For one, run: pip install 'gradcore[plot]'"
            )
        show(report.heading(job))
        if not quiet:
            show(report.columns(job))

        def tell(point: jobs.Point) -> None:
            if not quiet:
                show(report.line(point))

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
                f"interrupted after {result.updates:,} updates. To continue: gradcore train {name} "
                f"--run {job.run} --resume"
            )
            raise typer.Exit(EXIT_INTERRUPTED)
        show(report.verdict(result))
        say(f"saved {', '.join(map(str, saved))}")


def _job(
    name: str,
    sizes: Sizes,
    recipe: Recipe,
    kept: Kept,
    safeguards: Safeguards,
    resources: Resources,
) -> jobs.Job:
    """The job that the options describe; options not given are taken from a resumed run."""
    run, resume = kept.run, kept.resume
    # Without --run a new folder is made, so --watch always has a folder to write to.
    check_run(run, resume, None)
    settings = _said(recipe, "hidden", "batch", "lr", "updates", "every")
    settings |= _said(safeguards, "constrain", "limit")
    earlier = jobs.recorded(run) if resume and run is not None else None
    if earlier is not None:
        task, made, seed = earlier
        if task.name != name:
            fail(f"{run} holds a training of {task.name}, not of {name}.")
        task = dataclasses.replace(task, **sizes.said())
        settings |= _said(recipe, "cell")
    else:
        kind = TASKS[name]
        task, seed = kind(**{"length": kind.usual, **sizes.said()}), 0
        made = default(task, recipe.cell)
    if recipe.stages is False:
        settings["first"] = 0
    return jobs.Job(
        task=task,
        recipe=dataclasses.replace(made, **settings),
        seed=seed if recipe.seed is None else recipe.seed,
        minutes=recipe.minutes,
        run=run or _fresh_folder(f"{name}-{task.length}"),
        resume=resume,
        safeguards=safeguards,
        resources=resources,
    )


def _said(options: Any, *names: str) -> dict[str, Any]:
    """The fields that are not None; without names, all fields are considered."""
    found = {name: getattr(options, name) for name in names or vars(options)}
    return {name: value for name, value in found.items() if value is not None}


def _fresh_folder(name: str) -> Path:
    """The first of name, name-2, name-3 and so on that does not exist."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
