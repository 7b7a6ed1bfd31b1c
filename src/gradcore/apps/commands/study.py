"""Options and execution that all commands of `gradcore study` share."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..._base.output import write_text
from ..curves import can_draw
from ..settings import option
from ..studies import Progress, Result
from .app import check_outputs, errors, fail, say, show


@dataclass(frozen=True)
class StudyOptions:
    """The options that every study has."""

    seed: int = option(0, "Seed of all random numbers.", min=0)
    json_file: Path | None = option(None, "Write all numbers as JSON.", "--json", metavar="FILE")
    plot: Path | None = option(
        None,
        "File for the picture; the suffix gives the format. Default: study-NAME.png in the current "
        "folder, if matplotlib is installed.",
        metavar="FILE",
        show_default=False,
    )
    threads: int | None = option(
        None, "Largest number of threads.", min=1, show_default="all cores"
    )
    quiet: bool = option(False, "Show the result only.", "--quiet", "-q")


def conduct(name: str, run: Callable[..., Result], options: StudyOptions, **own: Any) -> None:
    """Runs a study, prints its result and writes the files. own: further arguments of run."""
    json_file = options.json_file
    picture = options.plot or Path(f"study-{name}.png")
    with errors():
        if options.plot is not None and not can_draw():
            fail("--plot needs matplotlib. Run: pip install 'gradcore[plot]'")
        check_outputs(json_file, pictures=(picture,) if can_draw() else ())
        with shown(options.quiet) as progress:
            result = run(seed=options.seed, threads=options.threads, progress=progress, **own)
        show("\n".join(result.lines()))
        saved = []
        if json_file is not None:
            write_text(json_file, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
            saved.append(json_file)
        if can_draw():
            result.draw(picture)
            saved.append(picture)
        if saved:
            say(f"saved {', '.join(map(str, saved))}")


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """Shows progress on stderr: a bar on a terminal with rich, otherwise a line at each tenth."""
    if quiet:
        yield lambda what, part: None
    elif sys.stderr.isatty() and find_spec("rich") is not None:
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=1.0)
            yield lambda what, part: bar.update(task, description=what, completed=part)
    else:
        yield _lines()


def _lines() -> Progress:
    told = 0  # the last tenth that was shown; the end is not
    start = time.monotonic()

    def progress(what: str, part: float) -> None:
        nonlocal told
        if told < int(part * 10) < 10:
            told = int(part * 10)
            left = (time.monotonic() - start) * (1 - part) / part
            say(f"{what} ({part:.0%}, about {math.ceil(left)} s left)")

    return progress
