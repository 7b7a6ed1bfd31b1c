"""Shows the progress of a training on stderr: a bar on a terminal, otherwise a line every 10 s."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

__all__ = ["Show", "Status", "progress"]

# The seconds between two plain lines.
PLAIN_INTERVAL = 10.0


@dataclass(frozen=True)
class Status:
    """The status of a training. part: the share of the work that is done, None if not known."""

    step: int
    loss: float
    score: float | None
    best: float | None
    seconds: float
    part: float | None

    def line(self) -> str:
        text = f"step {self.step}  loss {self.loss:.4g}"
        if self.score is not None:
            text += f"  score {self.score:.4g} (best {self.best:.4g})"
        return f"{text}  {self.seconds:.0f} s"


class Read(Protocol):
    """Returns the status; it is called only when something is shown."""

    def __call__(self) -> Status: ...


class Show(Protocol):
    """Shows the status if it is time to; it is called after every step."""

    def __call__(self, read: Read) -> None: ...


def progress(quiet: bool) -> AbstractContextManager[Show]:
    """A context that shows progress: a bar on a terminal if rich is installed, else plain lines."""
    if quiet:
        return nullcontext(lambda read: None)
    if sys.stderr.isatty() and find_spec("rich") is not None:
        return _Bar()
    return nullcontext(_Lines())


class _Lines:
    def __init__(self) -> None:
        self.next = time.monotonic() + PLAIN_INTERVAL

    def __call__(self, read: Read) -> None:
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PLAIN_INTERVAL
            print(read().line(), file=sys.stderr, flush=True)


class _Bar(AbstractContextManager[Show]):
    """A progress bar with the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("starting", total=None)
        self.next = 0.0

    def __enter__(self) -> Show:
        self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.last is not None:
            self._update(self.last)
        self.bar.stop()

    last: Read | None = None

    def __call__(self, read: Read) -> None:
        self.last = read
        # Ten updates of the bar per second are enough; a small net makes thousands of steps.
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + 0.1
            self._update(read)

    def _update(self, read: Read) -> None:
        status = read()
        if status.part is None:
            self.bar.update(self.task, description=status.line())
        else:
            part = min(1.0, status.part)
            self.bar.update(self.task, total=1.0, completed=part, description=status.line())
