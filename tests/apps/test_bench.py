"""Tests of `gradcore bench`: the machine's limits, the bound, the agreement of gradients, the order
of measurements, reports and the command. No test depends on a time.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from gradcore.apps import bench
from gradcore.apps.bench import agreement, contestants, report
from gradcore.apps.bench import machine as machines

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradcore.apps import commands

LIMITS = machines.Limits(
    threads=2,
    flops={"float32": 224e9, "float64": 112e9},
    read_l1=424e9,
    read_l2=224e9,
    read_beyond=190e9,
)
# The machine on which docs/performance.md computed its bounds.
MACHINE = bench.Machine(
    cpu="a CPU",
    cores=2,
    isa="v4",
    compiler="GCC",
    gradcore="1",
    l1_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    caches_known=True,
    one=replace(LIMITS, threads=1),
    all=LIMITS,
)
(ROW,) = bench.grid(["lstm"], [5], [2], [20])
PEERS = contestants.PEERS


# ---- The machine --------------------------------------------------------------------------------


@pytest.fixture
def each_level():
    yield _core.isa_available()
    _core.force_isa(None)


def test_rates_are_positive_at_every_level(each_level):
    for level in each_level:
        _core.force_isa(level)
        for threads in (1, 2, 3):
            how = {"threads": threads, "repeats": 2, "seconds": 1e-4}
            rates = [_core.measure_flops(dtype, **how) for dtype in ("float32", "float64")]
            rates += [_core.measure_reads(size, **how) for size in (512, 16_384, 3_000_320)]
            assert all(0 < rate < math.inf for rate in rates)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "dtype must be float32 or float64; got 'float16'"),
        ({"threads": -1}, "threads must be 0"),
        ({"threads": 65}, "threads must be 0 .automatic. to 64; got 65"),
        ({"repeats": 0}, "repeats must be 1 to 1000; got 0"),
        ({"seconds": 0.0}, "seconds must be above 0 and at most 1; got 0"),
        ({"seconds": math.nan}, "seconds must be above 0"),
        ({"bytes": 511}, "bytes must be a multiple of 512, at most 1073741824; got 511"),
        ({"bytes": 0}, "bytes must be a multiple of 512"),
        ({"bytes": 2**30 + 512}, "bytes must be a multiple of 512"),
    ],
)
def test_measurements_refuse_what_they_cannot_do(change, message):
    what = {} if "bytes" in change else {"dtype": "float32"}
    how = {"threads": 1, "repeats": 1, "seconds": 1e-4} | what | change
    measure = _core.measure_reads if "bytes" in change else _core.measure_flops
    with pytest.raises(gd.ArgumentError, match=message):
        measure(**how)


def test_a_machine_is_measured_with_one_and_all_threads(monkeypatch):
    lines = []
    machine = bench.measure(2, repeats=1, seconds=1e-4, progress=lines.append)
    assert (machine.one.threads, machine.all.threads, machine.threads) == (1, 2, 2)
    assert len(lines) == 2
    assert machine.isa == gd.build_info().isa_in_use
    facts = json.loads(json.dumps(machine.facts()))
    for rates in (*facts["peak_gflops"].values(), *facts["read_gbs"].values()):
        assert set(rates) == {"1", "2"}
        assert all(rate > 0 for rate in rates.values())
    assert set(facts["peak_gflops"]) == {"float32", "float64"}
    assert set(facts["read_gbs"]) == {"l1", "l2", "beyond"}
    monkeypatch.setattr(machines, "caches", lambda: None)
    silent = bench.measure(1, repeats=1, seconds=1e-4)
    assert not silent.caches_known
    assert (silent.l1_bytes, silent.l2_bytes) == machines.USUAL_CACHES
    assert silent.one is silent.all
    assert "(size assumed)" in report.machine_lines(silent)


def test_caches_are_read_as_linux_tells_them(tmp_path):
    def cache(index, kind, level, size):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{text}\n")

    assert machines.caches(tmp_path / "none") is None
    cache(0, "Data", 1, "48K")
    cache(1, "Instruction", 1, "32K")
    assert machines.caches(tmp_path) is None
    cache(2, "Unified", 2, "2M")
    cache(3, "Unified", 3, "266240K")
    (tmp_path / "index4").mkdir()
    assert machines.caches(tmp_path) == (48 * 1024, 2 * 1024 * 1024)


# ---- The bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gates", "hidden", "batch", "expected"),
    [
        # The weights (262,144 bytes) are read twice at 224 GB/s; then (2*65,536 + 6*512*16)
        # operations run at 224 GFLOP/s.
        (4, 128, 1, 2.34057 + 0.58514 + 0.21943),
        # The product takes 4*65,536*8 operations, which last longer than the reading; the others
        # take 8 times as many as above.
        (4, 128, 8, 9.36229 + 4.68114 + 1.75543),
        # 8 KB per thread are read from L1.
        (4, 32, 1, 0.07728 + 0.03657 + 0.05486),
        # 32 KB per thread do not fit into L1 beside other data and are read from L2.
        (1, 128, 1, 0.58514 + 0.14629 + 0.05486),
        # 1.5 MB per thread are read from beyond L2.
        (3, 512, 1, 33.11293 + 7.02171 + 0.65829),
    ],
)
def test_bound_by_hand(gates, hidden, batch, expected):
    bound = bench.bound_us(MACHINE, gates=gates, inputs=16, hidden=hidden, batch=batch)
    assert bound == pytest.approx(expected, rel=1e-5)


def test_bound_of_doubles_reads_twice_as_much_at_half_the_peak():
    size = {"gates": 4, "inputs": 16, "hidden": 128, "batch": 1}
    single, double = (bench.bound_us(MACHINE, **size, dtype=d) for d in ("float32", "float64"))
    assert double == pytest.approx(2 * single)


# ---- Problems -----------------------------------------------------------------------------------


def test_grid_has_every_combination():
    rows = bench.grid(["gru", "RNN"], [8, 16], [1, 32])
    assert [(r.cell, r.hidden, r.batch, r.steps) for r in rows[:3]] == [
        ("GRU", 8, 1, 10_000),
        ("GRU", 8, 32, 3_000),
        ("GRU", 16, 1, 10_000),
    ]
    assert len(rows) == 8
    assert [r.steps for r in bench.grid(["RNN"], [8], [1], [5, 7])] == [5, 7]
    assert [r.gates for r in bench.grid(["RNN", "LSTM", "GRU"], [8], [1])] == [1, 4, 3]
    with pytest.raises(
        gd.ArgumentError, match="cells must be some of RNN, LSTM, GRU, AntisymmetricRNN; got 'elm'"
    ):
        bench.grid(["elm"], [8], [1])
    with pytest.raises(gd.ArgumentError, match="1 or more; got RNN H=0"):
        bench.grid(["RNN"], [0], [1])
    with pytest.raises(gd.ArgumentError, match="grid is empty"):
        bench.grid([], [8], [1])


def test_a_problem_that_does_not_fit_is_refused():
    (row,) = bench.grid(["LSTM"], [1024], [64], [10**9])
    with pytest.raises(gd.ArgumentError, match=r"needs .* GB .* are free. Choose fewer steps"):
        bench.Problem.random(row)


# ---- Agreement ----------------------------------------------------------------------------------


def perturbed(name, change):
    """gradcore with one array of its gradients changed, as a contestant."""

    def make(problem, threads):
        turn = contestants.gradcore(problem, threads)

        def wrong():
            gradients = {k: v.copy() for k, v in turn().items()}
            gradients[name] = change(gradients[name])
            return gradients

        return wrong

    return make


CHANGES = [
    ("weight_hh", lambda g: g * 1.01),
    ("bias_hh", np.zeros_like),
    ("x", lambda g: np.roll(g, 1, axis=0)),
    ("weight_ih", lambda g: -g),
    ("weight_hh", lambda g: g * np.nan),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_differences_catch_a_wrong_gradient(cell, name, change):
    problem = bench.Problem.random(replace(ROW, cell=cell, hidden=17))
    right = contestants.gradcore(problem, 1)()
    agreement.check_differences(problem, right)
    message = f"along one direction of {name} the slope of the loss"
    with pytest.raises(bench.DisagreementError, match=message):
        agreement.check_differences(problem, perturbed(name, change)(problem, 1)())


@pytest.mark.parametrize(
    ("name", "change"), [*CHANGES, ("bias_ih", lambda g: g * 1.001), ("x", lambda g: g[:-1])]
)
def test_a_wrong_peer_is_caught_before_anything_is_timed(name, change):
    peer = contestants.Peer("Other", "other", perturbed(name, change), frozenset({"LSTM"}))
    with pytest.raises(bench.DisagreementError, match=f"gradcore and other differ by .* in {name}"):
        bench.run(ROW, MACHINE, {"other": peer}, rest=0.0)


def test_a_wrong_gradcore_is_caught_without_peers():
    with pytest.raises(bench.DisagreementError, match="weight_hh"):
        bench.run(ROW, MACHINE, {}, rest=0.0, own=perturbed(*CHANGES[0]))


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("name", sorted(PEERS))
def test_peers_agree(name, cell):
    pytest.importorskip(PEERS[name].package)
    result = bench.run(replace(ROW, cell=cell), MACHINE, {name: PEERS[name]}, repeats=1, rest=0.0)
    assert result.peer_errors[name] < 1e-5


# ---- Turns and reports --------------------------------------------------------------------------


def counting(name, calls):
    def make(problem, threads):
        turn = contestants.gradcore(problem, threads)

        def counted():
            calls.append(name)
            return turn()

        return counted

    return make


def test_contestants_take_turns():
    calls = []
    cells = frozenset({"LSTM"})
    peers = {n: contestants.Peer(n, n, counting(n, calls), cells) for n in ("torch", "jax")}
    own = counting("gradcore", calls)
    result = bench.run(ROW, MACHINE, peers, repeats=3, rest=0.0, own=own)
    # A gradient of a shorter problem comes first, then a warm-up of every contestant, then three
    # rounds.
    assert calls == ["gradcore", *4 * ["gradcore", "torch", "jax"]]
    assert result.us_per_step > 0
    assert result.fraction == result.bound_us / result.us_per_step
    assert result.best_peer_ratio == min(result.peers.values()) / result.us_per_step
    other = bench.run(replace(ROW, cell="GRU"), MACHINE, peers, repeats=1, rest=0.0)
    assert other.peers == {}
    assert other.best_peer_ratio is None


def test_tables_and_summary():
    results = [
        bench.Result(ROW, 2.0, 1.0, {"torch": 8.0, "jax": 6.0}, {}),
        bench.Result(replace(ROW, hidden=9), 1.0, 0.125, {}, {}),
    ]
    names = ["torch", "jax"]
    titles, rule = report.header(names).splitlines()
    assert titles.endswith("| PyTorch | JAX | best peer / gradcore |")
    assert titles.count("|") == rule.count("|")
    assert report.line(results[0], names) == "| LSTM | 5 | 2 | 20 | 2 | 1 | 0.50 | 8 | 6 | 3.00 |"
    assert report.line(results[1], names).endswith("| 1 | 0.125 | 0.12 | - | - | - |")
    assert report.line(results[1], []).endswith("| 1 | 0.125 | 0.12 |")
    assert report.summary(results).splitlines() == [
        "fraction of the bound: geometric mean 0.25, least 0.12 (LSTM H=9 B=2 T=20)",
        "best peer / gradcore: geometric mean 3.00, least 3.00 (LSTM H=5 B=2 T=20)",
    ]


def test_picture_has_everyone():
    pytest.importorskip("matplotlib")
    results = [
        bench.Result(ROW, 2.0, 1.0, {"torch": 8.0}, {}),
        bench.Result(replace(ROW, hidden=9), 1.0, 0.125, {"jax": 4.0}, {}),
    ]
    figure = report.figure(MACHINE, results)
    times, fractions = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("bound", "gradcore", "PyTorch", "JAX")
    ]
    assert [text.get_text() for text in times.get_yticklabels()] == [str(r.row) for r in results]
    assert [bar.get_width() for bar in fractions.patches] == [0.5, 0.125]


# ---- The command --------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Makes measurements very short and removes the rests between them."""
    monkeypatch.setattr(bench, "measure", partial(bench.measure, repeats=1, seconds=1e-4))
    again = partial(bench.measure_limits, repeats=1, seconds=1e-4)
    monkeypatch.setattr(bench, "measure_limits", again)
    monkeypatch.setattr(bench, "run", partial(bench.run, rest=0.0))


def call(*arguments):
    tiny = ("bench", "--hidden", "5", "--batch", "2", "--steps", "20", "--repeats", "1")
    return CliRunner().invoke(commands.app, [*tiny, *map(str, arguments)])


@pytest.mark.usefixtures("quick")
def test_the_command_writes_what_it_says(tmp_path):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    result = call("--peers", "none", "--batch", "1,2", "--json", out, "--plot", picture)
    assert result.exit_code == 0, result.stderr
    assert "6 of 6: GRU H=5 B=2 T=20" in result.stderr
    assert len([line for line in result.stdout.splitlines() if " | 5 | " in line]) == 6
    assert "GFLOP/s" in result.stdout
    assert "fraction of the bound: geometric mean" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    facts = json.loads(out.read_text())
    assert set(facts) == {"machine", "rows"}
    assert facts["machine"]["peers"] == {}
    assert 0 <= facts["machine"]["drift"] < 1
    assert facts["machine"]["threads"] == gd.build_info().threads
    assert len(facts["rows"]) == 6
    for row in facts["rows"]:
        assert set(row) == {
            *("cell", "H", "B", "T", "us_per_step", "bound_us", "fraction"),
            *("peers", "best_peer_ratio", "peer_errors", "memory"),
        }
        assert (row["H"], row["T"]) == (5, 20)
        assert row["memory"] == "full"
        assert row["us_per_step"] > 0
        assert row["fraction"] == row["bound_us"] / row["us_per_step"]
        assert (row["peers"], row["best_peer_ratio"]) == ({}, None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_peer_beside_it(tmp_path, name):
    pytest.importorskip(PEERS[name].package)
    out = tmp_path / "bench.json"
    result = call("--peers", name, "--cells", "gru", "--threads", 1, "--json", out, "-q")
    assert result.exit_code == 0, result.stderr
    assert PEERS[name].title in result.stdout
    assert result.stderr.endswith(f"gradcore: saved {out}\n")
    assert "1 of 1" not in result.stderr
    facts = json.loads(out.read_text())
    assert list(facts["machine"]["peers"]) == [name]
    (row,) = facts["rows"]
    assert row["best_peer_ratio"] == row["peers"][name] / row["us_per_step"]
    assert row["peer_errors"][name] < 1e-5


@pytest.mark.usefixtures("quick")
def test_missing_peers_are_told_and_left_out(monkeypatch):
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    for wanted, missing in (("installed", ["torch", "jax"]), ("jax", ["jax"])):
        result = call("--peers", wanted, "--cells", "RNN")
        assert result.exit_code == 0, result.stderr
        assert "best peer" not in result.stdout
        for name in PEERS:
            line = f"run: pip install 'gradcore[{name}]'"
            assert (f"{name} is not installed" in result.stderr) == (name in missing)
            assert (line in result.stderr) == (name in missing)


@pytest.mark.usefixtures("quick")
def test_peers_that_nobody_asked_for_are_not_imported(monkeypatch):
    def imported(name):
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(contestants, "import_module", imported)
    assert call("--peers", "none", "--cells", "RNN").exit_code == 0
    if benched := [name for name in PEERS if bench.installed(name)]:
        assert isinstance(call("--peers", benched[0]).exception, AssertionError)


@pytest.mark.usefixtures("quick")
def test_limits_that_change_are_told(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda threads, progress: MACHINE)
    for factor, told in ((1.0, False), (0.95, False), (0.5, True), (2.0, True)):
        later = replace(LIMITS, read_l2=factor * LIMITS.read_l2)
        assert LIMITS.drift(later) == pytest.approx(1 - min(factor, 1 / factor))
        monkeypatch.setattr(bench, "measure_limits", lambda *arguments, later=later: later)
        result = call("--peers", "none", "--cells", "RNN")
        assert result.exit_code == 0, result.stderr
        assert ("the machine's limits changed by 50% during the benchmark" in result.stderr) == told


@pytest.mark.usefixtures("quick")
def test_a_disagreement_exits_with_1_and_keeps_the_rows_before(tmp_path, monkeypatch):
    right = bench.run

    def run(row, *arguments, **keywords):
        if row.cell == "LSTM":
            keywords["own"] = perturbed(*CHANGES[0])
        return right(row, *arguments, **keywords)

    monkeypatch.setattr(bench, "run", run)
    out = tmp_path / "bench.json"
    result = call("--peers", "none", "--json", out)
    assert result.exit_code == 1
    assert "LSTM H=5 B=2 T=20: along one direction of weight_hh" in result.stderr
    assert [row["cell"] for row in json.loads(out.read_text())["rows"]] == ["RNN"]


@pytest.mark.usefixtures("quick")
def test_an_interrupt_keeps_the_rows_before(tmp_path, monkeypatch):
    right = bench.run

    def run(row, *arguments, **keywords):
        if row.cell == "LSTM":
            raise KeyboardInterrupt
        return right(row, *arguments, **keywords)

    monkeypatch.setattr(bench, "run", run)
    out = tmp_path / "bench.json"
    result = call("--peers", "none", "--json", out)
    assert result.exit_code == 130
    assert [row["cell"] for row in json.loads(out.read_text())["rows"]] == ["RNN"]


def test_errors_of_the_command(tmp_path):
    for arguments, message in [
        (["--hidden", "8,x"], "--hidden must be whole numbers of 1 or more, separated by commas"),
        (["--hidden", ""], "--hidden must be whole numbers"),
        (["--batch", "0"], "--batch must be whole numbers of 1 or more"),
        (["--steps", "1.5"], "--steps must be whole numbers"),
        (["--cells", "elm"], "cells must be some of RNN, LSTM, GRU, AntisymmetricRNN; got 'elm'"),
        (["--peers", "tf"], "peers must be none, or some of torch, jax; got 'tf'"),
        (["--json", tmp_path / "no" / "a.json"], "is not a folder"),
        (["--plot", tmp_path / "no" / "a.png"], "is not a folder"),
    ]:
        result = call(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert call("--threads", 0).exit_code == 2


@pytest.mark.skipif(not hasattr(bench.contestants.os, "sched_setaffinity"), reason="Linux")
def test_everyone_gets_the_same_cpus():
    from os import sched_getaffinity

    before = sched_getaffinity(0)
    with contestants.same_cpus(1):
        assert sched_getaffinity(0) == {min(before)}
    assert sched_getaffinity(0) == before


def test_a_core_is_used_once_before_its_second_thread(tmp_path):
    for cpu, siblings in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert contestants._cores_first({0, 1, 2, 3}, tmp_path) == [0, 2, 1, 3]
    assert contestants._cores_first({3, 1}, tmp_path) == [1, 3]
    assert contestants._cores_first({5, 4}, tmp_path / "none") == [4, 5]


def test_a_tape_that_does_not_fit_is_not_kept(monkeypatch):
    assert contestants.memory_for(ROW, 1) == "full"
    monkeypatch.setattr(contestants, "available_bytes", lambda: 1000)
    assert contestants.memory_for(ROW, 1) is None
