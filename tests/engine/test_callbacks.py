"""Progress callbacks, interruption, and calls from several threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradcore as gd
from gradcore._engine.execution import EXECUTION
from overriding import override

NET = gd.Stack(gd.Embedding(7, 16), gd.LSTM(16, 64), gd.Linear(64, 5))
PARAMS = NET.init(seed=1)


def data(steps, batch=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, (steps, batch)), rng.integers(0, 5, (steps, batch))


class StopError(Exception):
    """Raised by the callbacks of these tests."""


CALLS = {
    "value_and_grad": lambda x, y, **options: gd.value_and_grad(
        NET, PARAMS, x, y, loss="cross_entropy", **options
    ),
    "value": lambda x, y, **options: gd.value(NET, PARAMS, x, y, loss="cross_entropy", **options),
    "apply": lambda x, y, **options: gd.apply(NET, PARAMS, x, **options),
}


@pytest.mark.parametrize("call", CALLS)
def test_progress_counts_up(call):
    seen = []
    # The call is long enough for several callbacks 20 ms apart, on any machine.
    CALLS[call](*data(60_000, 8), progress=lambda done, total: seen.append((done, total)))
    assert len(seen) >= 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    (total,) = {total for _, total in seen}
    assert 0 <= seen[0][0] < seen[-1][0] <= total


@pytest.mark.parametrize("call", CALLS)
def test_an_exception_of_progress_passes_through(call):
    error = StopError("enough")

    def progress(done, total):
        raise error

    before = PARAMS.copy()
    with pytest.raises(StopError) as caught:
        CALLS[call](*data(300), progress=progress)
    assert caught.value is error
    assert before == PARAMS


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_stops_a_long_call(call):
    x, y = data(400_000, 8)
    before = PARAMS.copy()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](x, y)
    timer.join()
    # The whole call takes 5 s or more; Ctrl-C is checked every 20 ms.
    assert time.monotonic() - start < 2.0
    assert before == PARAMS


def test_calls_after_an_interrupt_are_right():
    x, y = data(300)
    expected = CALLS["value_and_grad"](x, y)
    with pytest.raises(StopError):
        gd.value_and_grad(NET, PARAMS, x, loss=_raise)
    again = CALLS["value_and_grad"](x, y)
    assert again.grads == expected.grads


def _raise(outputs, t0, t1):
    raise StopError


def test_concurrent_calls_give_the_same_bits():
    x, y = data(500)
    expected = CALLS["value_and_grad"](x, y)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: CALLS["value_and_grad"](x, y), range(12)))
    assert all(result.grads == expected.grads for result in results)
    assert all(result.loss == expected.loss for result in results)


def test_other_threads_run_during_a_call():
    x, y = data(20_000, 8)
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    CALLS["value"](x, y)
    end = time.monotonic()
    stop.set()
    thread.join()
    inside = sum(start < t < end for t in ticks)
    assert inside >= 0.2 * (end - start) / 0.005


def test_execution_settings_are_local_and_undone():
    assert EXECUTION.get().scaling
    assert not EXECUTION.get().exact_threads
    with override(exact_threads=True):
        with override(scaling=False):
            assert EXECUTION.get().exact_threads
            assert not EXECUTION.get().scaling
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(lambda: EXECUTION.get().scaling).result()
        assert EXECUTION.get().scaling
    assert not EXECUTION.get().exact_threads


def test_exact_threads_give_the_same_bits():
    x, y = data(300)
    expected = CALLS["value_and_grad"](x, y, threads=1)
    assert expected.threads == 1
    with override(exact_threads=True):
        for threads in (2, 3):
            result = CALLS["value_and_grad"](x, y, threads=threads)
            # A team of threads that does not get its cores continues with one thread.
            assert result.threads in (1, threads)
            assert result.grads == expected.grads
