"""Settings of the execution of calls, which only tests and benchmarks change."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["EXECUTION", "Execution"]


@dataclass(frozen=True)
class Execution:
    """Settings of the execution of a call.

    exact_threads: use as many threads as asked, even if fewer would be faster. scaling: keep
    adjoints in range by powers of two.
    """

    exact_threads: bool = False
    scaling: bool = True


# The settings that calls in this context use.
EXECUTION: ContextVar[Execution] = ContextVar("gradcore_execution", default=Execution())  # noqa: B039
