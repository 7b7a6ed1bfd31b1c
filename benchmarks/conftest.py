"""Regressions of speed; see README.md here."""

import pytest

import gradcore as gd
from gradcore.apps import bench


@pytest.fixture(scope="session")
def machine():
    """The machine's limits, measured once, with the threads that gradcore takes."""
    return bench.measure(gd.build_info().threads)


@pytest.fixture
def timed(benchmark, machine):
    """Takes the time of a function; facts go into the record beside it."""

    def take(function, **facts):
        benchmark.extra_info.update(machine=machine.facts(), **facts)
        return benchmark.pedantic(function, rounds=5, warmup_rounds=1)

    return take
