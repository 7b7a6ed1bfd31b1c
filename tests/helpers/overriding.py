"""Runs calls with settings of execution that users cannot choose:

with override(exact_threads=True, scaling=False):
    gd.value_and_grad(...)
"""

from contextlib import contextmanager
from dataclasses import replace

from gradcore._engine.execution import EXECUTION


@contextmanager
def override(**settings):
    """Changes settings of Execution for the calls inside the with statement, in this thread
    only.
    """
    token = EXECUTION.set(replace(EXECUTION.get(), **settings))
    try:
        yield
    finally:
        EXECUTION.reset(token)
