"""What gradcore does with anything: random bytes for every file reader, random calls for the core.

Each target takes random bytes or a generator and must return or raise one of gradcore's own errors.
Anything else (another exception, a crash, a call of more than SLOW seconds, more than MOST bytes of
address space) is a finding, and its input is kept. Inputs are valid ones that are changed at random
places; `--engine atheris` lets coverage lead instead, where atheris is installed.

    python tests/fuzzing.py --calls 1000000 [--targets fasta gff3] [--seed 0] [--keep findings]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gradcore as gd
from gradcore import _core, _index
from gradcore._net import core_net
from gradcore._schedule import OP
from gradcore.tasks.brackets import lexing
from gradcore.tasks.dna.records import read, read_gff3
from gradcore.tasks.table import csvfile
from gradcore.training_checkpoint import read_training

SLOW = 5.0
MOST = 6 * 10**9
EXPECTED = (gd.GradcoreError, OSError)
FOLDER = Path(tempfile.mkdtemp(prefix="gradcore-fuzz-"))


# ---- Readers of files ----------------------------------------------------------------------------


def checkpoint_seed() -> bytes:
    net = gd.Stack(gd.Embedding(4, 2), gd.LSTM(2, 3, skip=gd.Skip(2)), gd.Linear(3, 2))
    path = FOLDER / "seed.safetensors"
    gd.save(path, net, net.init(seed=0), task="x", values=[1, {"a": None}])
    return path.read_bytes()


def training_seed() -> bytes:
    net = gd.Stack(gd.GRU(1, 2), gd.Linear(2, 1))
    params = net.init(seed=0)
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, 1e-3), loss="mse", quiet=True)
    x = np.zeros((4, 1, 1), np.float32)
    trainer.fit([gd.Batch(x, x)], steps=2, run=FOLDER / "run")
    return (FOLDER / "run" / "last.safetensors").read_bytes()


GENBANK = """LOCUS       TEST                      30 bp    DNA     linear   UNK 01-JAN-1980
DEFINITION  a test.
ACCESSION   TEST
VERSION     TEST.1
FEATURES             Location/Qualifiers
     source          1..30
                     /organism="Some thing"
     CDS             join(1..4,6..10)
                     /product="slips"
     CDS             complement(<13..18)
     CDS             20..25
                     /pseudo
     CDS             complement(join(26..27,29..30))
                     /codon_start=2
ORIGIN
        1 atgaaattta gggcccgggt ttaaaccctt
//
"""
FASTA = ">one first\nACGTNRYKM\nacgtacgt\n\n>two\nTTTT\n"
GFF3 = (
    "##gff-version 3\none\tx\tgene\t1\t9\t.\t+\t.\tID=g1\none\tx\tCDS\t1\t9\t.\t-\t0\tID=c;"
    "Parent=g1;pseudo=true\n"
)
TABLE = "machine,time,a,state\n1,0,0.5,on\n1,1,,off\n2,0,1e-3,on\n2,1,nan,on\n"
SOURCE = 'def f(a):\n    """{ ("""\n    return {"x": [a[0], f"{a!r:>{3}}"]}  # )\n'
WORDS = (
    *(b"", b"\0", b"\n", b"\r\n", b"\t", b",", b";", b'"', b"'", b">", b"//", b"##", b"=", b"-1"),
    *(b"0", b"1e999", b"99999999999999999999", b"nan", b"\xff\xfe", b"\xef\xbb\xbf", b"..", b"{"),
    *(b"[", b"}", b"join(", b"complement(", b"CDS", b"ORIGIN", b"LOCUS", b"\xe2\x80\xa8", b"%00"),
)


def written(data: bytes, name: str) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def checkpoint(data: bytes) -> None:
    gd.load(written(data, "a.safetensors"))


def training(data: bytes) -> None:
    read_training(written(data, "b.safetensors"))


def fasta(data: bytes) -> None:
    read(written(data, "a.fa"))


def fasta_gzip(data: bytes) -> None:
    read(written(data, "a.fa.gz"))


def genbank(data: bytes) -> None:
    read(written(data, "a.gbk"))


def gff3(data: bytes) -> None:
    read_gff3(written(data, "a.gff3"))


def table(data: bytes) -> None:
    csvfile.read(written(data, "a.csv"), csvfile.Wanted(order="time"))


def source(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    kinds = lexing.kinds_of(text, "python")
    characters = lexing.tokens_of(text)
    real = lexing.real_of(kinds)
    labels, partner, _ = _index.bracket_labels(characters, real)
    assert len(labels) == len(partner) == len(text)
    _index.expected_within(characters, real, 10)
    _index.fresh_starts(characters, kinds)


# ---- Calls ---------------------------------------------------------------------------------------

VALUES = (0, 1, 2, -1, 3, 7, 128, 129, 2**31, 2**63 - 1, -(2**63), 0.5, float("nan"), float("inf"))


def number(rng: random.Random) -> object:
    return rng.choice((*VALUES, None, "x", True, np.int32(3), np.float16(0.5), [], (1, 2)))


def an_array(rng: random.Random) -> object:
    shape = tuple(rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.randrange(4)))
    dtype = rng.choice(("f4", "f8", "i8", "i4", "u1", "?", "c16", "O", "U3", ">f4", "f2"))
    made = np.zeros(shape, dtype) if dtype != "O" else np.full(shape, None, object)
    if made.dtype.kind in "fi" and rng.random() < 0.5:
        made = (made + rng.choice((1, 3, -1, 1e30))).astype(dtype, copy=False)
    if made.ndim and rng.random() < 0.2:
        made = made[::-1]
    return rng.choice((made, made, made, made, made.tolist(), memoryview(bytes(8)), None, "abc"))


def layers(rng: random.Random) -> None:
    """Descriptions of nets and what is made of them."""
    kind = rng.choice((gd.LSTM, gd.GRU, gd.RNN, gd.AntisymmetricRNN, gd.Linear, gd.Embedding))
    options: dict[str, object] = {}
    if kind not in (gd.Linear, gd.Embedding):
        names = ("bias", "bidirectional", "residual", "zoneout", "recurrent_dropout", "skip")
        for name in rng.sample(names, rng.randrange(3)):
            options[name] = number(rng)
        if rng.random() < 0.3:
            options["skip"] = gd.Skip(number(rng), value=number(rng))  # type: ignore[arg-type]
    sizes = [rng.choice((1, 2, 3, number(rng))) for _ in range(2)]
    layer = kind(*sizes, **options)  # type: ignore[arg-type]
    if all(isinstance(size, int) and size < 9 for size in sizes):
        net = gd.Stack(layer)
        net.init(seed=rng.choice((0, number(rng))), chrono=rng.choice((None, number(rng))))


NETS = (
    gd.Stack(gd.LSTM(2, 3), gd.Linear(3, 2)),
    gd.Stack(gd.Embedding(4, 2), gd.GRU(2, 3, bidirectional=True), gd.Linear(6, 2)),
    gd.Stack(gd.RNN(2, 3, skip=gd.Skip(5, kind="mix", value=0.5))),
)
PARAMS = tuple(net.init(seed=0) for net in NETS)


def python_api(rng: random.Random) -> None:
    """value_and_grad, apply and plan with anything for any argument."""
    at = rng.randrange(len(NETS))
    net, params = NETS[at], PARAMS[at]
    tokens = net.embedding is not None
    steps, batch = rng.choice((1, 2, 140)), rng.choice((1, 2))
    x = np.zeros((steps, batch), np.int64) if tokens else np.zeros((steps, batch, 2), np.float32)
    y = np.zeros((steps, batch), np.int64)
    arguments: dict[str, object] = {"x": x, "y": y, "loss": "cross_entropy"}
    for name in rng.sample(
        ("x", "y", "loss", "weight", "lengths", "reset", "state", "memory", "threads", "wrt"),
        rng.randrange(4),
    ):
        arguments[name] = rng.choice((an_array(rng), number(rng), {}, ["x"], "mse", "1KB"))
    first, second = arguments.pop("x"), arguments.pop("y")
    if rng.random() < 0.2:
        arguments.pop("loss", None)
        arguments.pop("weight", None)
        arguments.pop("wrt", None)
        gd.apply(net, params, first, **arguments)  # type: ignore[arg-type]
    else:
        gd.value_and_grad(net, params, first, second, **arguments)  # type: ignore[arg-type]


def core_plan(rng: random.Random) -> None:
    """Plans of random operations, straight to the core: it must refuse or run them in bounds."""
    at = rng.randrange(len(NETS))
    net, params = NETS[at], PARAMS[at]
    steps, batch = rng.choice((1, 100, 128, 300)), 2
    call = _core.Call(core_net(net, params.dtype), steps=steps, batch=batch)
    call.loss("mse" if rng.random() < 0.8 else "none")
    arrays: dict[str, object] = {"params": params.flat}
    if net.embedding is not None:
        arrays["tokens"] = np.zeros((steps, batch), rng.choice((np.uint8, np.int32, np.int64)))
    else:
        arrays["x"] = np.zeros((steps, batch, 2), np.float32)
    arrays["target"] = np.zeros((steps, batch, net.output_size), np.float32)
    arrays["grads"] = np.zeros_like(params.flat)
    arrays["outputs"] = np.zeros((steps, batch, net.output_size), np.float32)
    for name in rng.sample(sorted(arrays), rng.randrange(3)):
        if rng.random() < 0.3:
            del arrays[name]
        elif rng.random() < 0.3:
            arrays[name] = an_array(rng)
    try:
        call.bind(**arrays)
    except (TypeError, ValueError):  # of the binding, which is private
        return
    kinds = (0, 1, 2, 3, 4, 5, -1)
    borders = (0, 0, 128, 128, 256, steps, steps, 1, -128, 2**62)
    ops = [
        (
            rng.choice(kinds[:4] if rng.random() < 0.9 else kinds),
            rng.choice((-1, -2, 0, 1, 9)),
            rng.choice((-1, -1, 0, 1, 9)),
            rng.choice((0, 0, 0, 1, 2)),
            rng.choice(borders),
            rng.choice(borders),
        )
        for _ in range(rng.randrange(6))
    ]
    if rng.random() < 0.5:  # one that is right, or nearly
        ops = [(1, -1, -1, part, 0, steps) for part in range(core_net(net, params.dtype).n_parts)]
        ops += [(2, -2, -1, part, 0, steps) for part in reversed(range(len(ops)))]
        if ops and rng.random() < 0.5:
            ops.pop(rng.randrange(len(ops)))
    length = rng.choice((steps, steps, 128, 0, -1, 2**62))
    call.plan(np.array(ops, OP), segment_steps=length, slots=rng.choice((0, 1, 3, -1, 2**20)))
    call.run()


def optimizers(rng: random.Random) -> None:
    """Steps with wild numbers; parameters must stay as they were if a step is refused."""
    params = PARAMS[0].copy()
    kind = rng.choice((gd.optim.SGD, gd.optim.Adam, gd.optim.RMSprop, gd.optim.Lion))
    clip = rng.choice((None, gd.clip.GlobalNorm(1.0), gd.clip.Adaptive(0.1), gd.clip.ZScore()))
    optimizer = kind(params, rng.choice((1e-3, number(rng))), clip=clip)  # type: ignore[operator]
    grads = gd.Grads(NETS[0], np.zeros_like(params.flat))
    scale = rng.choice((0.0, 1.0, 1e-45, 3e38, float("nan"), float("inf")))
    grads.flat[...] = scale
    before = params.flat.copy()
    try:
        optimizer.step(grads)
    except gd.GradcoreError:
        np.testing.assert_array_equal(params.flat, before)


READERS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "checkpoint": (checkpoint, checkpoint_seed),
    "training": (training, training_seed),
    "fasta": (fasta, FASTA.encode),
    "fasta_gzip": (fasta_gzip, lambda: gzip.compress(FASTA.encode(), mtime=0)),
    "genbank": (genbank, GENBANK.encode),
    "gff3": (gff3, GFF3.encode),
    "table": (table, TABLE.encode),
    "source": (source, SOURCE.encode),
}
CALLS: dict[str, Callable[[random.Random], None]] = {
    "layers": layers,
    "python_api": python_api,
    "core_plan": core_plan,
    "optimizers": optimizers,
}
TARGETS = (*READERS, *CALLS)


def changed(data: bytes, rng: random.Random) -> bytes:
    """The data with a few random changes."""
    made = bytearray(data)
    for _ in range(1 + int(rng.expovariate(0.5))):
        at = rng.randrange(len(made) + 1)
        to = min(len(made), at + int(rng.expovariate(0.2)))
        match rng.randrange(6):
            case 0 if made:
                made[min(at, len(made) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                made[at:at] = rng.choice(WORDS)
            case 2:
                made[at:to] = rng.choice(WORDS)
            case 3:
                del made[at:to]
            case 4:
                made[at:at] = made[at:to] * rng.choice((1, 2, 50))
            case _:
                made[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
    return bytes(made)


def attack(name: str, calls: int, seed: int) -> list[str]:
    """Findings of one target in so many calls; call number i depends on name, seed and i only."""
    findings = []
    data = READERS[name][1]() if name in READERS else b""
    for i in range(calls):
        rng = random.Random(f"{name} {seed} {i}")
        start = time.monotonic()
        try:
            if name in READERS:
                given = changed(data, rng) if i else data
                READERS[name][0](given)
            else:
                CALLS[name](rng)
        except EXPECTED:
            pass
        except Exception:
            told = f"\ninput {given!r}" if name in READERS else ""
            findings.append(f"{name}, seed {seed}, call {i}:\n{traceback.format_exc()}{told}")
        if time.monotonic() - start > SLOW:
            findings.append(f"{name}, seed {seed}, call {i}: {time.monotonic() - start:.1f} s")
    return findings


def with_atheris(name: str, calls: int) -> None:
    """Coverage leads; ends the process."""
    import atheris  # type: ignore[import-not-found]

    def one(data: bytes) -> None:
        try:
            if name in READERS:
                READERS[name][0](data)
            else:
                CALLS[name](random.Random(data))
        except EXPECTED:
            pass

    corpus = FOLDER / f"corpus-{name}"
    corpus.mkdir()
    if name in READERS:
        (corpus / "seed").write_bytes(READERS[name][1]())
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-atheris_runs={calls}", f"-timeout={SLOW:.0f}", str(corpus)], one)
    atheris.Fuzz()


def limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="in all, shared by the targets")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--keep", type=Path, help="a file for what is found, as JSON")
    args = parser.parse_args()
    limit_memory()
    each = -(-args.calls // len(args.targets))
    if args.engine == "atheris":
        with_atheris(args.targets[0], each)
    found: dict[str, list[str]] = {}
    for name in args.targets:
        start = time.monotonic()
        found[name] = attack(name, each, args.seed)
        took = time.monotonic() - start
        print(f"{name:12} {each:,} calls, {took:.0f} s, {len(found[name])} findings", flush=True)
        for finding in found[name][:3]:
            print(io.StringIO(finding).read()[:3_000])
    if args.keep is not None:
        args.keep.write_text(json.dumps(found, indent=1))
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    main()
