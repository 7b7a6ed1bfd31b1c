"""Turns dataclasses into options of commands, and has the options that several commands share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..._training.runs import BEST, LAST, METRICS
from ..curves import can_draw
from ..settings import option
from .app import check_outputs, fail, say

__all__ = ["Output", "Quiet", "check_run", "run_files", "spread", "teller"]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Turns each parameter of a command that is a dataclass into one option per field.

    The command still receives the dataclass. Fields that were not made with settings.option() keep
    their defaults. typer reads options from a signature, so this builds a new one.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            options = _options(kind)
            groups[name] = kind, [one.name for one in options]
            parameters += options
        else:
            given = parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(given)

    def call(**given: Any) -> None:
        for name, (kind, fields) in groups.items():
            given[name] = kind(**{field: given.pop(field) for field in fields})
        command(**given)

    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _options(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    made = []
    for field in dataclasses.fields(kind):
        if "option" in field.metadata:
            names, how = field.metadata["option"]
            made.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=Annotated[hints[field.name], typer.Option(*names, **how)],
                )
            )
    return made


@dataclass(frozen=True)
class Output:
    """The files that a training writes; each command derives its own from it."""

    out: Path = option(
        Path("net.safetensors"), "Where the trained net is saved.", "--out", "--checkpoint"
    )
    run: Path | None = option(
        None,
        "A folder in which the training is kept, so that it can be resumed and drawn by `gradcore "
        "plot`.",
        metavar="FOLDER",
    )
    resume: bool = option(False, "Continue the training in --run.", "--resume")
    json_file: Path | None = option(None, "Write all numbers as JSON.", "--json", metavar="FILE")
    plot: Path | None = option(None, "File for a picture.", metavar="FILE")

    @property
    def picture(self) -> Path:
        """The path of the picture, which lies beside the net unless --plot names another."""
        return self.plot or self.out.with_suffix(".png")

    def check(self, *others: Path | None, inputs: Iterable[Path] = (), note: bool = False) -> None:
        """Ends the command now if a file could not be written at the end.

        others: further files to be written. inputs: files that are read. note: whether to say that
        matplotlib is missing.
        """
        check_outputs(
            self.out,
            self.json_file,
            *others,
            inputs=(*inputs, *run_files(self.run)),
            pictures=(self.picture,) if can_draw() else (),
        )
        if not can_draw():
            if self.plot is not None:
                fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
            if note:
                say(
                    "there is no picture without matplotlib. For one, run: pip install "
                    "'gradcore[plot]'"
                )


def run_files(*runs: Path | None) -> list[Path]:
    """The files of runs, which no other output may replace; runs: folders, or a file of one."""
    names = (LAST, BEST, METRICS)
    folders = [run for run in runs if run is not None]
    return [*folders, *(run / name for run in folders for name in names)]


def check_run(run: Path | None, resume: bool, watch: int | None, *, fresh: bool = True) -> None:
    """Ends the command if the options of a run contradict each other.

    fresh: also if the folder holds a training and --resume was not given.
    """
    if resume and run is None:
        fail("--resume needs --run FOLDER, the folder of the training to continue.")
    if watch is not None and run is None:
        fail("--watch needs --run FOLDER, the folder for its measurements.")
    if fresh and run is not None and not resume and (run / LAST).exists():
        fail(f"{run} already holds a training. Continue it with --resume, or name another folder.")


def teller(quiet: bool) -> Callable[[str], None]:
    """The function that a job reports its phases to; with --quiet it does nothing."""
    return (lambda line: None) if quiet else say
