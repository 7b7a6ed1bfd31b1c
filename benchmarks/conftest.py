"""Tests for regressions of speed; README.md in this folder says how to use them."""

import pytest

import gradcore as gd
from gradcore.apps import bench


@pytest.fixture(scope="session")
def machine():
    """The machine's limits, measured once, with the number of threads that gradcore uses."""
    return bench.measure(gd.build_info().threads)


@pytest.fixture
def timed(benchmark, machine):
    """Measures the time of a function; facts are stored beside it in the record."""

    def take(function, **facts):
        benchmark.extra_info.update(machine=machine.facts(), **facts)
        return benchmark.pedantic(function, rounds=5, warmup_rounds=1)

    return take
