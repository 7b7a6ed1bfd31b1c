"""What gradcore reads from the machine and the environment: levels, threads, forks, denormals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core

LEVELS = _core.isa_available()

NET = gd.Stack(gd.LSTM(8, 64), gd.Linear(64, 3))


def gradient(threads: int | None = None) -> np.ndarray:
    params = NET.init(seed=0, dtype="float32")
    x = np.random.default_rng(0).standard_normal((300, 4, 8)).astype(np.float32)
    y = np.zeros((300, 4), dtype=np.int64)
    result = gd.value_and_grad(NET, params, x, y, loss="cross_entropy", threads=threads)
    return result.grads.flat


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("GRADCORE_MAX_ISA", "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture
def automatic_isa() -> Iterator[None]:
    yield
    _core.force_isa(None)


@pytest.mark.usefixtures("automatic_isa")
@pytest.mark.parametrize("level", LEVELS)
def test_forced_level_is_in_use_until_undone(level: str) -> None:
    before = _core.isa_in_use()
    _core.force_isa(level)
    assert gd.build_info().isa_in_use == level
    _core.force_isa(None)
    assert gd.build_info().isa_in_use == before


@pytest.mark.parametrize("level", ["v1", "v5", "V3", "", "avx2"])
def test_unknown_level_is_refused(level: str) -> None:
    with pytest.raises(gd.errors.ArgumentError, match="level must be None or one of"):
        _core.force_isa(level)


@pytest.mark.skipif(_core.isa_available() == ["baseline"], reason="has one level")
def test_levels_agree_to_rounding() -> None:
    results = []
    for level in LEVELS:
        _core.force_isa(level)
        results.append(gradient())
    _core.force_isa(None)
    for other in results[1:]:
        assert np.linalg.norm(other - results[0]) <= 1e-5 * np.linalg.norm(results[0])


@pytest.mark.parametrize("cap", [level for level in LEVELS if level != "baseline"])
def test_environment_caps_the_level(cap: str) -> None:
    code = "import gradcore; print(gradcore.build_info().isa_in_use)"
    done = run_python(code, GRADCORE_MAX_ISA=cap)
    assert done.stdout.strip() == cap
    assert done.stderr == ""


@pytest.mark.skipif(_core.isa_available() == ["baseline"], reason="has one level")
def test_bad_cap_is_reported_and_ignored() -> None:
    code = "import gradcore; print(gradcore.build_info().isa_in_use)"
    done = run_python(code, GRADCORE_MAX_ISA="avx512")
    assert done.stdout.strip() == LEVELS[-1]
    assert done.stderr == (
        "gradcore: GRADCORE_MAX_ISA must be v2, v3 or v4; got 'avx512', which is ignored.\n"
    )


def test_omp_num_threads_limits_the_default() -> None:
    code = "import gradcore; print(gradcore.build_info().threads)"
    assert run_python(code, OMP_NUM_THREADS="1").stdout.strip() == "1"
    unlimited = int(run_python(code).stdout)
    assert int(run_python(code, OMP_NUM_THREADS="500").stdout) == unlimited


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_limits_the_default() -> None:
    code = (
        "import os, gradcore\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(gradcore.build_info().threads)"
    )
    assert run_python(code).stdout.strip() == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_computes_on_one_thread() -> None:
    """A parallel region in the child of a process that has used OpenMP would never return."""
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import gradcore as gd\n"
        "from test_machine import gradient\n"
        "before = gradient(threads=2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    same = (gradient(threads=2) == before).all()\n"
        "    os._exit(0 if same and gd.build_info().threads == 1 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert run_python(code).stdout.strip() == "0"


def test_denormals_stay_as_the_caller_set_them() -> None:
    tiny = np.finfo(np.float32).tiny
    seen = []

    def loss(outputs: np.ndarray, t0: int, t1: int) -> tuple[float, np.ndarray]:
        seen.append(np.float32(tiny) / np.float32(2))
        return float(np.square(outputs).sum()), 2 * outputs

    params = NET.init(seed=0, dtype="float32")
    x = np.ones((10, 1, 8), dtype=np.float32)
    gd.value_and_grad(NET, params, x, None, loss=loss)
    assert seen
    assert min(seen) > 0  # called on the calling thread
    assert np.float32(tiny) / np.float32(2) > 0


def test_build_info_tells_what_is_used() -> None:
    info = gd.build_info()
    assert info.version == gd.__version__
    assert "-ffp-contract=off" in info.flags
    assert "-ffast-math" not in info.flags
    assert info.isa_in_use in info.isa_available
    assert "omp" in info.openmp_runtime
    assert info.threads >= 1
