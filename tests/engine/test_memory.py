"""Memory budgets: the forms in which they are given, and how much memory a container has left."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore._base import memory
from gradcore._base.memory import available_bytes, budget_bytes, format_bytes

MB = 10**6


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("64MB", 64 * MB),
        ("64 mb", 64 * MB),
        ("1.5GB", 1500 * MB),
        ("1.5 GiB", 3 * 2**29),
        ("100kB", 100_000),
        ("512KiB", 512 * 1024),
        ("4096B", 4096),
        (123456, 123456),
        ("full", None),
    ],
)
def test_amounts(memory, expected):
    assert budget_bytes(memory) == expected


@pytest.mark.parametrize("memory", ["64", "MB", "-1MB", "0MB", "64 TBs", "1e3MB", "", 0, -5])
def test_wrong_amounts(memory):
    with pytest.raises(gd.ArgumentError, match="memory must be None, 'full', a positive number"):
        budget_bytes(memory)


@pytest.mark.parametrize(
    "memory",
    [
        "9" * 400 + "GB",
        "9" * 40 + "GB",
        "9" * 10_000 + "kB",
        2**63,
        10**6000,
        -(10**6000),
        "64MB\0",
    ],
    ids=lambda memory: repr(memory)[:8] if isinstance(memory, str) else str(memory.bit_length()),
)
@pytest.mark.parametrize("call", ["budget", "apply", "plan"])
def test_amounts_beyond_any_machine(memory, call):
    net = gd.Stack(gd.RNN(1, 2))
    x = np.zeros((3, 1, 1), np.float32)
    calls = {
        "budget": lambda: budget_bytes(memory),
        "plan": lambda: gd.plan(net, 3, 1, memory=memory),
        "apply": lambda: gd.apply(net, net.init(), x, memory=memory),
    }
    with pytest.raises(gd.ArgumentError, match=r"memory must be None, .* below 2\*\*63") as error:
        calls[call]()
    assert len(str(error.value)) < 300
    assert budget_bytes(2**63 - 1) == 2**63 - 1
    assert budget_bytes("999999GB") == 999_999 * 10**9


@pytest.mark.parametrize("memory", [64e6, True, [1]])
def test_wrong_types(memory):
    with pytest.raises(gd.DTypeError, match="memory must be None, 'full', a positive number"):
        budget_bytes(memory)


@pytest.mark.parametrize(
    ("left", "expected"), [(None, 256 * MB), (100 * 10**9, 256 * MB), (400 * MB, 100 * MB)]
)
def test_default_is_a_quarter_of_what_is_left(monkeypatch, left, expected):
    monkeypatch.setattr(memory, "available_bytes", lambda: left)
    monkeypatch.setattr(memory, "_last_look", None)
    assert budget_bytes(None) == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (1_079_552, "1.1 MB"), (64 * MB, "64.0 MB"), (10**9, "1.0")],
)
def test_format(number, text):
    assert format_bytes(number).startswith(text)


@pytest.mark.parametrize("number", [1001, 1_079_552, 123_456_789, 10**9 + 1])
def test_formatted_bytes_suffice(number):
    assert budget_bytes(format_bytes(number)) >= number


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 2000000 kB\nMemAvailable:   1000000 kB\n"}
V2 = {"proc/self/cgroup": "0::/job/worker\n", **MEMINFO}
V1 = {"proc/self/cgroup": "12:cpu,cpuacct:/job\n5:memory:/job\n", **MEMINFO}


def v2(folder, limit, used, reclaimable=0):
    at = f"sys/fs/cgroup/{folder}"
    return {
        f"{at}memory.max": f"{limit}\n",
        f"{at}memory.current": f"{used}\n",
        f"{at}memory.stat": f"anon 5\ninactive_file {reclaimable}\n",
    }


def v1(folder, limit, used, reclaimable=0):
    at = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{at}memory.limit_in_bytes": f"{limit}\n",
        f"{at}memory.usage_in_bytes": f"{used}\n",
        f"{at}memory.stat": f"inactive_file 1\ntotal_inactive_file {reclaimable}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MEMINFO, 1_024_000_000),
        ({**V2, **v2("", "max", 5)}, 1_024_000_000),
        ({**V2, **v2("job/worker/", 300 * MB, 100 * MB)}, 200 * MB),
        ({**V2, **v2("job/worker/", 300 * MB, 250 * MB, 40 * MB)}, 90 * MB),
        # A parent group may have a tighter limit than the process's own group.
        ({**V2, **v2("job/worker/", 300 * MB, 0), **v2("job/", 150 * MB, 100 * MB)}, 50 * MB),
        # In a container the path may be that of the host; the limit is then that of the mount
        # point.
        ({**V2, **v2("", 80 * MB, 20 * MB)}, 60 * MB),
        ({**V2, **v2("", 80 * MB, 90 * MB)}, 0),
        ({**V1, **v1("job/", 400 * MB, 100 * MB, 30 * MB)}, 330 * MB),
        ({**V1, **v1("job/", 9223372036854771712, 100 * MB)}, 1_024_000_000),
        ({**V1, **v1("", 70 * MB, 20 * MB)}, 50 * MB),
    ],
)
def test_what_a_container_leaves(tmp_path, files, expected):
    assert available_bytes(write(tmp_path, files)) == expected


def test_this_machine_says_something_sensible():
    left = available_bytes()
    assert left is None or 0 <= left < 2**50


def test_large_results_come_from_memory_that_was_dropped():
    net = gd.Stack(gd.RNN(1, 64))
    params = net.init(seed=0)
    x = np.zeros((8192, 1, 1), np.float32)
    gd.release_memory()

    def place():
        outputs, _ = gd.apply(net, params, x)
        return outputs.__array_interface__["data"][0]

    assert place() == place()
    kept, _ = gd.apply(net, params, x)
    expected = kept.copy()
    other, _ = gd.apply(net, params, x + 1)
    assert not np.shares_memory(kept, other)
    np.testing.assert_array_equal(kept, expected)
    assert kept.flags.writeable
    assert kept.flags.aligned


# ---- copies are counted before they are made

STEPS, SIDE = 20_000, 64
WIDE = gd.Stack(gd.RNN(SIDE, 2), gd.Linear(2, 2))
FEW = gd.Stack(gd.RNN(1, 2), gd.Linear(2, 2))
TOKENS = gd.Stack(gd.Embedding(4, 2), gd.RNN(2, 2), gd.Linear(2, 4))


def zeros(*shape, dtype=np.float32):
    """All elements are one number, with strides of 0: the array itself takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def strided():
    return np.zeros((STEPS, 1, 2 * SIDE), np.float32)[..., ::2]


def layouts():
    """Calls with 5 MB or more that have to be copied; each as a function of the budget."""
    two = np.zeros((1, 2), np.float32)
    mse = gd.loss.MeanSquaredError(step="last")
    ways = {
        "broadcast x": zeros(STEPS, 1, SIDE),
        "strided x": strided(),
        "Fortran x": np.asfortranarray(np.zeros((STEPS, 2, SIDE), np.float32))[:, :1],
    }
    for name, x in ways.items():
        params = WIDE.init()
        yield name, lambda m, x=x, p=params: gd.value_and_grad(WIDE, p, x, two, loss=mse, memory=m)
        yield f"{name}, forward", lambda m, x=x, p=params: gd.forward(WIDE, p, x, memory=m)
        yield f"{name}, apply", lambda m, x=x, p=params: gd.apply(WIDE, p, x, memory=m)
        yield (
            f"{name}, hvp",
            lambda m, x=x, p=params: gd.jacobian.hvp(WIDE, p, x, two, [p], loss=mse, memory=m),
        )
    params = FEW.init()
    wide = np.zeros((STEPS, 60, 1), np.float32)
    y = zeros(STEPS, 60, 2)
    yield "y", lambda m: gd.value_and_grad(FEW, params, wide, y, loss="mse", memory=m)
    weight = zeros(STEPS, 60)
    last = np.zeros((STEPS, 60, 2), np.float32)
    yield (
        "weight",
        lambda m: gd.value_and_grad(FEW, params, wide, last, weight=weight, loss="mse", memory=m),
    )
    tokens = TOKENS.init()
    seen = np.zeros((STEPS, 60), np.uint8)
    yield (
        "classes",
        lambda m: gd.value_and_grad(TOKENS, tokens, seen, seen, loss="cross_entropy", memory=m),
    )
    reset = zeros(STEPS * 10, 60, dtype=np.bool_)
    long = np.zeros((STEPS * 10, 60, 1), np.float32)
    sixty = np.zeros((60, 2), np.float32)
    yield "reset", lambda m: gd.value(FEW, params, long, sixty, reset=reset, loss=mse, memory=m)


WAYS = ["broadcast x", "strided x", "Fortran x"]
CALLS = ["", ", forward", ", apply", ", hvp"]
NAMES = [way + call for way in WAYS for call in CALLS] + ["y", "weight", "classes", "reset"]


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_is_checked_before_anything_is_copied(name):
    call = dict(layouts())[name]
    tracemalloc.start()
    try:
        with pytest.raises(gd.MemoryBudgetError) as error:
            call("3MB")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.value.smallest > 4 * MB  # the copy is part of what is needed
    assert peak < 2 * MB
    if "hvp" not in name:
        call(error.value.smallest)


def test_a_copy_gives_the_bits_of_what_was_copied():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3, 2 * SIDE)).astype(np.float32)[..., ::2]
    y = rng.standard_normal((50, 2, 3)).astype(np.float32).transpose(0, 2, 1)
    weight = rng.random((3, 50)).astype(np.float32).T
    reset = (rng.random((3, 50)) < 0.1).T
    params = WIDE.init()
    made = {"weight": weight, "reset": reset}
    whole = {name: np.ascontiguousarray(array) for name, array in made.items()}
    one = gd.value_and_grad(WIDE, params, x, y, loss="mse", **made, wrt=("params", "x"))
    other = gd.value_and_grad(
        WIDE, params, x.copy(), y.copy(), loss="mse", **whole, wrt=("params", "x")
    )
    assert one.loss == other.loss
    assert one.grads == other.grads
    np.testing.assert_array_equal(one.dx, other.dx)
    outputs, passed = gd.forward(WIDE, params, x), gd.forward(WIDE, params, x.copy())
    assert outputs.backward(y).grads == passed.backward(y.copy()).grads
