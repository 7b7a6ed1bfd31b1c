"""Delays Ctrl-C and SIGTERM to safe moments, so that no training step is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """A context in which SIGINT and SIGTERM raise KeyboardInterrupt, but never inside `held()`.

    After the first signal further ones are ignored, so that what it interrupts can be saved: a
    system that shuts down may send SIGTERM right after SIGINT. If the exception is swallowed and
    the work continues, the next `held()` lets signals raise again.

    Signal handlers that the user has installed are left alone. Outside the main thread nothing is
    changed, because Python allows only the main thread to set handlers. Contexts may be nested; the
    inner one has the signals, and the outer one ignores further ones if there was one.

    number: the signal that came first, or None.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending = False
        self._raised = False
        self._before: dict[signal.Signals, Any] = {}
        self._outer: Interrupts | None = None
        self.number: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            ours = {
                signal.SIGINT: signal.default_int_handler,
                signal.SIGTERM: signal.SIG_DFL,
            }
            for number, default in ours.items():
                found = signal.getsignal(number)
                owner = getattr(found, "__self__", None)
                if isinstance(owner, Interrupts):
                    self._outer = owner
                if found == default or isinstance(owner, Interrupts):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._outer is not None and self._raised:
            self._outer._raised, self._outer.number = True, self.number
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context in which a signal is noted and raises KeyboardInterrupt at the end."""
        if self._depth == 0:  # while signals are ignored, what is saved is no work that goes on
            self._raised = False
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and self._depth == 0:
            self._pending, self._raised = False, True
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Ignores further signals; called before the final checkpoint is written."""
        self._depth += 1

    def stay_ignored(self) -> None:
        """Ignores signals to the end of the process, where Python has no handlers any more."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raised:
            return
        if self.number is None:
            self.number = number
        if self._depth:
            self._pending = True
        else:
            self._raised = True
            raise KeyboardInterrupt
