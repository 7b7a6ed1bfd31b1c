"""Calls the callbacks of a fit, and what follows if one of them raises."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..callbacks import Callback, FitView
from ..callbacks._callback import HOOKS
from ..errors import DTypeError

__all__ = ["Hooks", "checked_callbacks"]


def checked_callbacks(callbacks: object) -> tuple[Callback, ...]:
    """The callbacks as a tuple; raises DTypeError if they are no sequence of Callback."""
    if isinstance(callbacks, (Callback, type)) or not isinstance(callbacks, Sequence):
        raise DTypeError(
            f"callbacks must be a list of gradcore.callbacks.Callback; got {callbacks!r}."
        )
    for place, callback in enumerate(callbacks):
        if isinstance(callback, type) or not isinstance(callback, Callback):
            made = " Pass an instance of it." if isinstance(callback, type) else ""
            raise DTypeError(
                f"callbacks must be instances of gradcore.callbacks.Callback; callbacks[{place}] "
                f"is {callback!r}.{made}"
            )
    return tuple(callbacks)


class Hooks:
    """The callbacks of one fit. failed: whether one has raised an exception."""

    def __init__(self, callbacks: Sequence[Callback], view: FitView) -> None:
        self._callbacks, self._view = callbacks, view
        self.failed = False

    def call(self, hook: str) -> None:
        """Calls one of HOOKS of every callback; what one raises is passed on."""
        assert hook in HOOKS
        for callback in self._callbacks:
            try:
                getattr(callback, hook)(self._view)
            except Exception:
                self.failed = True
                raise

    def end(self) -> None:
        """Calls on_end of every callback, also after one has raised.

        The first exception is raised, if there is not already one that ends the fit: then those of
        on_end become warnings. Ctrl-C leaves the on_end that is running, and nothing else.
        """
        first: Exception | None = None
        for callback in self._callbacks:
            try:
                callback.on_end(self._view)
            except KeyboardInterrupt:
                continue
            except Exception as error:
                if self._view.error is None and first is None:
                    first = error
                    continue
                warnings.warn(
                    f"{type(callback).__name__}.on_end raised {error!r} after the fit had been "
                    f"ended by {self._view.error or first!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if first is not None:
            raise first
