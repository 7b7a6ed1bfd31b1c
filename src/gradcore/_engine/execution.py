"""How calls are executed where tests and benchmarks must say more than users should.

with override(exact_threads=True, scaling=False):
    gd.value_and_grad(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Execution:
    """exact_threads: as many threads as asked, whatever the cost model says.

    scaling: keep adjoints in range by powers of two.
    """

    exact_threads: bool = False
    scaling: bool = True


_current: ContextVar[Execution] = ContextVar("gradcore_execution", default=Execution())  # noqa: B039


def current() -> Execution:
    """What the calls of this context use."""
    return _current.get()


@contextmanager
def override(
    *, exact_threads: bool | None = None, scaling: bool | None = None
) -> Iterator[Execution]:
    """Other settings for the calls inside the with statement, in this thread only."""
    now = current()
    changed = replace(
        now,
        exact_threads=now.exact_threads if exact_threads is None else exact_threads,
        scaling=now.scaling if scaling is None else scaling,
    )
    token = _current.set(changed)
    try:
        yield changed
    finally:
        _current.reset(token)
