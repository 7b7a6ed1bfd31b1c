"""The typer application, and what every command needs: exit codes, messages, checks of paths."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info

import gradcore as gd

from ..._base.interrupts import Interrupts
from ..._base.output import check_output, figure_format, same_file
from .. import streams
from ..exit_codes import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED
from ..text import plain
from .places import PLACES


class _Lazy(MutableMapping[str, Any]):
    """The commands of a group by name; the file of a command is imported when the command is read.

    group: its name in PLACES. present: its commands that are there already.
    """

    def __init__(self, group: str, present: Mapping[str, Any]) -> None:
        self._group = group
        self._present = dict(present)

    def __getitem__(self, name: str) -> Any:
        if name not in self._present and name in PLACES[self._group]:
            import_module(f"{__package__}.{PLACES[self._group][name]}")
            for info in APPS[self._group].registered_commands:
                made = get_command_from_info(
                    info, pretty_exceptions_short=False, rich_markup_mode=None
                )
                assert made.name is not None
                self._present.setdefault(made.name, made)
        return self._present[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._present[name] = command

    def __delitem__(self, name: str) -> None:
        del self._present[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._present, **PLACES[self._group]})

    def __len__(self) -> int:
        return len(list(iter(self)))


class Commands(TyperGroup):
    """A group that lists its commands by name, each with its complete first sentence.

    Its messages about arguments hold no control characters, it refuses paths without a name, and
    it ends quietly when nobody reads the output any more.
    """

    def __init__(self, *, name: str, commands: Mapping[str, Any], **how: Any) -> None:
        super().__init__(name=name, **how)
        self.commands = _Lazy(name, commands)

    def get_command(self, ctx: Any, name: str) -> Any:
        found = super().get_command(ctx, name)
        for parameter in getattr(found, "params", ()):
            _refuse_empty_paths(parameter)
        return found

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _quiet_and_plain():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _quiet_and_plain():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(1000)) for name, found in commands if found]
            )


def _refuse_empty_paths(parameter: Any) -> None:
    """Has a parameter of a command refuse "", which pathlib takes for the current folder."""
    process = parameter.process_value
    if getattr(process, "refuses", False):
        return

    def refusing(ctx: Any, value: Any) -> Any:
        made = process(ctx, value)
        given, paths = (v if isinstance(v, (list, tuple)) else (v,) for v in (value, made))
        if "" in given and any(isinstance(path, Path) for path in paths):
            options = parameter.opts
            name = "/".join(options) if options[0].startswith("-") else parameter.metavar
            fail(f"{name} must name a file or a folder; the name is empty.")
        return made

    refusing.refuses = True  # type: ignore[attr-defined]
    parameter.process_value = refusing


@contextmanager
def _quiet_and_plain() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        if error.filename is not None:  # a pipe that was named as an output
            raise
        streams.flush()
        raise typer.Exit(EXIT_PIPE) from None
    except Exception as error:
        # typer's classes of wrong arguments are not public.
        if hasattr(error, "format_message") and isinstance(getattr(error, "message", None), str):
            error.message = plain(error.message)  # type: ignore[attr-defined]
        raise


# Help is plain text without rich's markup: it is the same on a terminal, in a pipe and for a screen
# reader, and takes half the lines of the boxes that typer draws with rich.
app = typer.Typer(
    name="gradcore",
    cls=Commands,
    help="Train and diagnose recurrent nets with exact gradients over very long sequences.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    cls=Commands,
    help="Train a net on your files or on a task with a known baseline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study_app = typer.Typer(
    cls=Commands,
    help="Run an experiment on stability that gives numbers and a picture within two minutes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(train_app, name="train")
app.add_typer(study_app, name="study")
APPS = {"gradcore": app, "train": train_app, "study": study_app}


def _tell_version(asked: bool) -> None:
    if asked:
        show(f"gradcore {gd.__version__}")
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
    """The options of `gradcore` itself."""


@contextmanager
def errors() -> Iterator[None]:
    """A context that turns errors of gradcore and the system into a message and an exit code.

    Ctrl-C and SIGTERM end the command with a word, and further signals do not disturb that.
    """
    with Interrupts() as interrupts:
        try:
            yield
        except gd.GradcoreError as error:
            fail(str(error))
        except OSError as error:
            if isinstance(error, BrokenPipeError) and error.filename is None:
                raise  # nobody reads the output any more
            where = f"{error.filename}: " if error.filename is not None else ""
            fail(f"{where}{error.strerror or error}")
        except MemoryError as error:
            fail(f"there is not enough memory: {error or 'the system refused more'}")
        except KeyboardInterrupt:
            if interrupts.number == signal.SIGTERM:
                say("interrupted by SIGTERM")
                raise typer.Exit(EXIT_TERMINATED) from None
            say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def check_outputs(
    *outputs: Path | None, inputs: Iterable[Path] = (), pictures: Iterable[Path | None] = ()
) -> None:
    """Raises ArgumentError if an output cannot be written, so that this shows before the work.

    Says which files will be replaced. inputs: files that are read and must not be replaced.
    pictures: further outputs, whose suffix must be a format of matplotlib.
    """
    inputs = list(inputs)
    drawn = [path for path in pictures if path is not None]
    named = [*(path for path in outputs if path is not None), *drawn]
    for path in drawn:
        figure_format(path)
    for number, path in enumerate(named):
        replaced = check_output(path, inputs)
        if path.exists() and not path.is_file():
            continue  # several outputs may go through one device
        for other in named[:number]:
            if same_file(path, other):
                fail(f"{path} is named for two outputs. Name a file for each.")
        if replaced:
            say(f"{path} exists and will be replaced")


def interrupted(out: Path, run: Path | None) -> NoReturn:
    """Says where the net and the training were saved, and ends with EXIT_INTERRUPTED."""
    say(f"interrupted; the current net was saved to {out}")
    if run is not None:
        say(f"to continue, give the same command with --resume; the training is kept in {run}")
    raise typer.Exit(EXIT_INTERRUPTED)


def say(line: str) -> None:
    """Prints a line on stderr."""
    print(plain(f"gradcore: {line}"), file=sys.stderr, flush=True)


def show(text: object) -> None:
    """Prints a result on stdout; ends the command with EXIT_ERROR if that cannot be written."""
    try:
        print(plain(str(text)), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        streams.flush()  # drops what is left, which would be tried again at the end
        fail(streams.unwritten(error))


def fail(line: str) -> NoReturn:
    """Prints a line on stderr and ends the command with EXIT_ERROR."""
    say(line)
    raise typer.Exit(EXIT_ERROR)
