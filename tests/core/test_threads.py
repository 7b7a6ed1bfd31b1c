"""Many threads that call every function at the same time get the bits of one that calls alone."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradcore as gd

NETS = (
    gd.Stack(gd.LSTM(2, 17), gd.Linear(17, 2)),
    gd.Stack(gd.GRU(2, 9, bidirectional=True), gd.LayerNorm(18), gd.Linear(18, 2)),
    gd.Stack(gd.RNN(2, 33, skip=gd.Skip(5)), gd.Dropout(0.2), gd.Linear(33, 2)),
)
X = np.random.default_rng(0).standard_normal((300, 3, 2)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((300, 3, 2)).astype(np.float32)
LENGTHS = np.array([300, 120, 7])


def a_job(number: int, folder: object) -> bytes:
    """Calls each function once with arguments that depend on the number; folder: this job's own
    folder.
    """
    net = NETS[number % len(NETS)]
    params = net.init(seed=number)
    optimizer = gd.optim.Adam(params, 1e-2, clip=gd.clip.GlobalNorm(1.0))
    memory = (None, "full", "1MB")[number % 3]
    parts = []
    for step in range(3):
        result = gd.value_and_grad(
            net,
            params,
            X,
            Y,
            loss="mse",
            lengths=LENGTHS,
            seed=(number, step) if net.is_random else None,
            memory=memory,
            threads=1 + number % 2,
        )
        optimizer.step(result.grads)
    outputs, _ = gd.apply(net, params, X)
    parts += [params.flat.tobytes(), outputs.tobytes()]
    if not net.bidirectional:
        stepper = gd.Stepper(net, params, 3)
        parts.append(b"".join(stepper.step(x).tobytes() for x in X[:20]))
    path = folder / f"{number}.safetensors"  # type: ignore[operator]
    gd.save(path, net, params)
    parts.append(gd.load(path).params.flat.tobytes())
    weights = [array for name, array in params.items() if name.endswith("weight_hh")]
    parts.append(np.float64(gd.spectral.spectral_norm(weights[0]).value).tobytes())
    if number % 7 == 0:
        gd.release_memory()
        gc.collect()
    return b"".join(parts)


def test_everything_at_once(tmp_path):
    jobs = list(range(12)) * 4
    (tmp_path / "alone").mkdir()
    alone = {number: a_job(number, tmp_path / "alone") for number in set(jobs)}

    def one(place: int) -> bool:
        folder = tmp_path / f"{place}"
        folder.mkdir()
        return a_job(jobs[place], folder) == alone[jobs[place]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(len(jobs))))


def test_shared_parameters_may_be_read_by_many(tmp_path):
    net = NETS[0]
    params = net.init(seed=0)
    expected = gd.value_and_grad(net, params, X, Y, loss="mse").grads.flat.tobytes()

    def one(_: int) -> bytes:
        return gd.value_and_grad(net, params, X, Y, loss="mse").grads.flat.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(60))) == {expected}


def test_one_stepper_is_of_one_thread():
    stepper = gd.Stepper(NETS[0], NETS[0].init(seed=0), 3)

    def one(_: int) -> str:
        try:
            stepper.step(X[0])
        except gd.ArgumentError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(one, range(400)))
    # Either the calls did not overlap, or the second raised the documented error; nothing else may
    # happen.
    assert told <= {"", *(text for text in told if "already running in another thread" in text)}


REFUSED = """
import resource

import numpy as np

import gradcore as gd

net = gd.Stack(gd.LSTM(8, 64), gd.Linear(64, 2))
params = net.init(seed=0)
x = np.ones((300, 4, 8), np.float32)
y = np.zeros((300, 4, 2), np.float32)


def gradient(threads):
    result = gd.value_and_grad(net, params, x, y, loss="mse", threads=threads, memory="full")
    return result.grads.flat.copy(), result.threads


expected, _ = gradient(1)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
# Enough for the 3 MB of a call, and not for the stack of another thread, 8 MB.
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * 2**20, resource.RLIM_INFINITY))
for threads in (2, 8, 2):
    found, ran = gradient(threads)
    assert ran == 1, ran
    assert found.tobytes() == expected.tobytes()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_the_system_refuses_are_done_without():
    """libgomp would end the process with a message of its own."""
    run = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
