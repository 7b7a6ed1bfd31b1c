"""How calls are executed: what tests and benchmarks set, and users need not."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["EXECUTION", "Execution"]


@dataclass(frozen=True)
class Execution:
    """exact_threads: as many threads as asked, whatever the cost model says.

    scaling: keep adjoints in range by powers of two.
    """

    exact_threads: bool = False
    scaling: bool = True


# What the calls of this context use.
EXECUTION: ContextVar[Execution] = ContextVar("gradcore_execution", default=Execution())  # noqa: B039
