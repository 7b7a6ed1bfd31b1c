"""Memory budgets: the forms in which they are given, and how much memory a container has left."""

from __future__ import annotations

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
