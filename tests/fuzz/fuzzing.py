"""Runs gradcore with random input: random files for every reader, random calls for every binding.

Each target of `fuzz_targets.py` must return or raise one of gradcore's own errors. Another
exception, a crash, or a call of more than SLOW seconds or MOST_GROWTH bytes is a finding; it is
printed with the command that repeats it. Each target runs in its own process, so that a crash is
one finding and does not end the run.

    python tests/fuzz/fuzzing.py --calls 1000000 [--targets fasta gff3] [--keep found.json]
    python tests/fuzz/fuzzing.py --engine atheris --seconds 180 --targets fasta  # by coverage
    python tests/fuzz/fuzzing.py --engine hypothesis --calls 1000 --targets fasta  # small examples
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import gradcore as gd

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from fuzz_targets import CALLS, FOLDER, READERS, TARGETS, Refused

SLOW = 5.0
HANGS = 60.0
MOST = 6 * 10**9
MOST_GROWTH = 500 * 10**6
MOST_CRASHES = 20
CHILD = (__file__,)
EXPECTED = (gd.GradcoreError, Refused)


def attack(
    name: str, calls: int, seed: int, first: int = 0, note: Callable[[int], object] = id
) -> dict[str, str]:
    """Findings of one target, at most one for each line of code where they arise.

    Call number i depends on name, seed and i only; note is called with the number before each call.
    """
    found: dict[str, str] = {}
    reader = READERS.get(name)
    data = reader.seed() if reader else b""
    peak = _peak()
    armed = -HANGS
    for i in range(first, first + calls):
        rng = random.Random(f"{name} {seed} {i}")
        given = reader.change(data, rng) if reader and i else data
        note(i)
        # The time is that of this process, so other work on the machine makes no call slow.
        start = time.process_time()
        if time.monotonic() - armed > 1.0:
            # Ends the process even if C code hangs, and prints where it was.
            faulthandler.dump_traceback_later(HANGS, exit=True)
            armed = time.monotonic()
        where = f"{name}, seed {seed}, call {i}"
        try:
            if reader:
                reader(given)
            else:
                CALLS[name](rng)
        except EXPECTED:
            pass
        except Exception as error:
            told = f"\ninput {given[:3000]!r}" if reader else ""
            found.setdefault(_place(error), f"{where}:\n{traceback.format_exc()}{told}")
        took, before, peak = time.process_time() - start, peak, _peak()
        if took > SLOW:
            found.setdefault("slow", f"{where}: {took:.1f} s, input {given[:3000]!r}")
        if i > first and peak - before > MOST_GROWTH:
            found.setdefault("memory", f"{where}: {(peak - before) / 1e6:.0f} MB")
    faulthandler.cancel_dump_traceback_later()
    return found


def _peak() -> int:
    """The largest resident set of the process so far, in bytes."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _place(error: Exception) -> str:
    """The type of an error and the line of gradcore through which it came."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "gradcore" in Path(frame.filename).parts] or frames[-1:]
    return f"{type(error).__name__} {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def apart(name: str, calls: int, seed: int) -> dict[str, str]:
    """Runs attack in its own process; if that dies, it is a finding, and the next call
    continues.
    """
    found: dict[str, str] = {}
    first, crashes = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        at, kept = Path(folder, "at"), Path(folder, "kept")
        while first < calls and crashes < MOST_CRASHES:
            at.write_bytes(bytes(8))
            run = subprocess.run(
                [
                    *(sys.executable, *CHILD, "--child", name, "--seed", str(seed)),
                    *("--calls", str(calls - first), "--first", str(first)),
                    *("--keep", kept, "--at", at),
                ],
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if kept.exists():
                found |= json.loads(kept.read_text())
                break
            first = int.from_bytes(at.read_bytes(), "little") + 1
            crashes += 1
            told = f"{name}, seed {seed}, call {first - 1}: ended with {run.returncode}"
            found[f"crash {crashes}"] = f"{told}\n{run.stderr[-2_500:]}"
    return found


def child(args: argparse.Namespace) -> None:
    faulthandler.enable()
    _limit_memory()
    handle = os.open(args.at, os.O_WRONLY)

    def note(number: int) -> None:
        os.pwrite(handle, number.to_bytes(8, "little"), 0)

    found = attack(args.child, args.calls, args.seed, args.first, note)
    args.keep.write_text(json.dumps(found))


def with_atheris(name: str, calls: int, seconds: int, seed: int) -> None:
    """Lets coverage guide the choice of inputs; ends the process."""
    import atheris  # type: ignore[import-not-found]

    found: set[str] = set()
    reader = READERS.get(name)

    def tell(place: str, data: bytes, more: str = "") -> None:
        # Each finding is printed once and the run continues, so that others are found too.
        if place not in found:
            found.add(place)
            print(f"FINDING {name} {place}\n{more}{data[:3000]!r}", flush=True)

    def one(data: bytes) -> None:
        start = time.process_time()
        try:
            if reader:
                reader(data)
            else:
                CALLS[name](random.Random(data))
        except EXPECTED:
            pass
        except Exception as error:
            tell(_place(error), data, traceback.format_exc())
        if time.process_time() - start > SLOW:
            tell("slow", data)

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if reader is None or rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        try:
            return reader.change(data, rng)[:most]
        except Exception:  # no longer a file whose parts can be named
            return bytes(atheris.Mutate(data, most))

    corpus = FOLDER / f"corpus-{name}"
    corpus.mkdir()
    if reader:
        (corpus / "seed").write_bytes(reader.seed())
        reader(reader.seed())  # imports everything the target needs
    for function in _functions(("gradcore", "Bio", "csv", "gzip", "json", "numpy.lib", "zipfile")):
        atheris.instrument_func(function)
    limits = [f"-max_total_time={seconds}"] if seconds else [f"-atheris_runs={calls}"]
    limits += ["-timeout=600", "-max_len=20000", f"-seed={seed + 1}", "-rss_limit_mb=3000"]
    limits += ["-print_final_stats=1", f"-artifact_prefix={FOLDER}/"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


def _functions(packages: tuple[str, ...]) -> list[FunctionType]:
    """The functions and methods of loaded packages; those of all modules would take minutes."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(f"{package}." for package in packages)) or name in packages:
            made = [value for value in vars(module).values() if isinstance(value, type)]
            for place in (module, *made):
                values = list(vars(place).values())
                found += [v for v in values if isinstance(v, FunctionType) and _of(v, packages)]
    return list(dict.fromkeys(found))


def _of(function: FunctionType, packages: tuple[str, ...]) -> bool:
    return (function.__module__ or "").startswith(packages)


def with_hypothesis(name: str, calls: int) -> None:
    """Lets hypothesis choose inputs and reduce those that fail; raises the finding."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    reader = READERS.get(name)
    generators = st.randoms(use_true_random=False)
    inputs: st.SearchStrategy[Any] = generators
    if reader:
        seed, change = reader.seed(), reader.change
        inputs = st.binary(max_size=200) | generators.map(lambda rng: change(seed, rng))

    @settings(
        max_examples=calls,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def one(value: Any) -> None:
        with contextlib.suppress(*EXPECTED):
            (reader or CALLS[name])(value)

    one()


def _limit_memory() -> None:
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="in all, shared by the targets")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("random", "atheris", "hypothesis"), default="random")
    parser.add_argument("--seconds", type=int, default=0, help="of atheris, in place of --calls")
    parser.add_argument("--keep", type=Path, help="a file for what is found, as JSON")
    for hidden, kind in (("--child", str), ("--first", int), ("--at", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    each = -(-args.calls // len(args.targets))
    if args.engine == "atheris":
        with_atheris(args.targets[0], each, args.seconds, args.seed)
    found: dict[str, dict[str, str]] = {}
    for name in args.targets:
        start = time.monotonic()
        if args.engine == "hypothesis":
            with_hypothesis(name, each)
            found[name] = {}
        else:
            found[name] = apart(name, each, args.seed)
        took = time.monotonic() - start
        print(f"{name:18} {each:,} calls, {took:.0f} s, {len(found[name])} findings", flush=True)
        for place, finding in found[name].items():
            print(f"--- {place}\n{finding[:4_000]}", flush=True)
        if args.keep is not None:
            args.keep.write_text(json.dumps(found, indent=1))
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    main()
