"""The targets of fuzzing: every reader of files, each in its own folder, and calls of every
binding.

A reader takes the bytes of a file, a call takes a generator of random numbers; each must return or
raise one of gradcore's own errors.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd
from fuzz_inputs import (
    changed,
    changed_gzip,
    changed_json_lines,
    changed_npy,
    changed_npz,
    changed_safetensors,
    npy,
    npz,
)
from gradcore import _core, _index
from gradcore._engine.operations import OP
from gradcore._net.description import core_net
from gradcore._training.checkpoint import read_training
from gradcore._training.runs import read_metrics
from gradcore.apps.tasks import material
from gradcore.apps.tasks.brackets import lexing, sources
from gradcore.apps.tasks.dna.records import read, read_gff3, read_sequences
from gradcore.apps.tasks.table import read as table_file
from gradcore.apps.tasks.table import schema as table_schema


class Refused(Exception):  # noqa: N818
    """Stands for the exceptions by which pybind11 and Cython refuse arguments of a private
    binding.
    """


FOLDER = Path(tempfile.mkdtemp(prefix="gradcore-fuzz-"))


# ---- Readers of files ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """run: reads a file. seed: makes a valid file. change: changes it at random places."""

    run: Callable[[Path], object]
    name: str
    seed: Callable[[], bytes]
    change: Callable[[bytes, random.Random], bytes] = changed

    def __call__(self, data: bytes) -> None:
        # Each target has its own folder, because some readers also read the files beside theirs.
        path = FOLDER / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.run(path)


def checkpoint_seed() -> bytes:
    net = gd.Stack(gd.Embedding(4, 2), gd.LSTM(2, 3, skip=gd.Skip(2)), gd.Linear(3, 2))
    path = FOLDER / "seed.safetensors"
    gd.save(path, net, net.init(seed=0), task="x", values=[1, {"a": None}])
    return path.read_bytes()


def a_trainer() -> gd.Trainer:
    net = gd.Stack(gd.GRU(1, 2), gd.Linear(2, 1))
    params = net.init(seed=0)
    optimizer = gd.optim.Adam(params, 1e-3, clip=gd.clip.ZScore())
    schedule = gd.schedule.Cosine(9)
    return gd.Trainer(net, params, optimizer, loss="mse", schedule=schedule, quiet=True, seed=0)


X = np.zeros((4, 1, 1), np.float32)


def a_run() -> Path:
    """The folder of a training of two updates."""
    folder = FOLDER / "run"
    if not folder.exists():
        a_trainer().fit([gd.Batch(X, X)] * 3, steps=2, run=folder)
    return folder


def resume(path: Path) -> None:
    (path.parent / "metrics.jsonl").write_bytes((a_run() / "metrics.jsonl").read_bytes())
    a_trainer().fit([gd.Batch(X, X)] * 3, steps=3, run=path.parent, resume=True)


def schema_seed() -> bytes:
    made = table_schema.Schema(
        features=(
            table_schema.Feature("a", "number", 0.5, 2.0),
            table_schema.Feature("b", "text", categories=("x", "y")),
        ),
        target=table_schema.Target("c", "class", "step", 1, classes=("u", "v")),
        sequence="machine",
        order=None,
        missing="error",
    )
    return json.dumps(made.as_json()).encode() + b"\n"


def schema(path: Path) -> None:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # gd.load has refused it
        return
    table_schema.from_json(value, "x")


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
     CDS             join(27..30,1..2)
                     /transl_table=4
     CDS             order(<1..4,J00194.1:(6.8)..10)
ORIGIN
        1 atgaaattta gggcccgggt ttaaaccctt
//
"""
EMBL = """ID   TEST; SV 1; circular; DNA; STD; UNK; 30 BP.
XX
AC   TEST;
XX
FH   Key             Location/Qualifiers
FH
FT   CDS             join(1..4,6..10)
FT                   /product="slips"
FT   CDS             complement(<13..18)
FT                   /transl_table=4
FT   CDS             25..2
XX
SQ   Sequence 30 BP; 8 A; 5 C; 8 G; 9 T; 0 other;
     atgaaattta gggcccgggt ttaaaccctt                                        30
//
"""
FASTA = ">one first\nACGTNRYKM\nacgtacgt\n\n>two\nTTTT\n"
GFF3 = (
    "##gff-version 3\none\tx\tgene\t1\t9\t.\t+\t.\tID=g1\none\tx\tCDS\t1\t9\t.\t-\t0\tID=c;"
    "Parent=g1;pseudo=true\n"
)
INSIDE = (
    "##gff-version 3\n##sequence-region one 1 17\n"
    "one\tx\tregion\t1\t17\t.\t+\t.\tIs_circular=true\n"
    "one\tx\tCDS\t12\t20\t.\t+\t0\tID=a;Parent=m,n;partial=true;end_range=20,.\n"
    "one\tx\tCDS\t4\t9\t.\t+\t1\tID=b;Parent=m;transl_table=4\n"
    "one\tx\tCDS\t1\t3\t.\t-\t.\tID=c\none\tx\tCDS\t5\t9\t.\t+\t2\tID=c\n##FASTA\n" + FASTA
)
GTF = (
    'one\tx\tCDS\t1\t6\t.\t+\t0\tgene_id "g"; transcript_id "t"; transl_table 4;\n'
    'one\tx\tstop_codon\t7\t9\t.\t+\t0\tgene_id "g"; transcript_id "t";\n'
)
TABLE = "machine,time,a,state\n1,0,0.5,on\n1,1,,off\n2,0,1e-3,on\n2,1,nan,on\n"


def gff3_beside(path: Path) -> None:
    fasta = path.with_name("beside.fa")
    fasta.write_text(FASTA[: FASTA.index(">two")])
    read(fasta)


def a_table(path: Path) -> None:
    wanted = table_file.Wanted(order="time")
    table_file.names([path], wanted)
    table_file.read([path], wanted)


TIMES = np.arange(4)
COLUMNS = {"time": TIMES, "a": TIMES / 2, "word": np.array(["x", "y", "x", "é"])}
STRUCTURED = np.array([(0, 0.5, "x"), (1, 1.5, "yy")], [("time", "i8"), ("a", "f4"), ("b", "U2")])


def parquet_seed() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({**COLUMNS, "none": [None, 1, 2, None]}), stream)
    return stream.getvalue()


def source(path: Path) -> None:
    (found,) = sources.find([path]).files
    text = sources.read_text(found.path)
    kinds = lexing.kinds_of(text, found.language)
    characters = lexing.tokens_of(text)
    real = lexing.real_of(kinds)
    labels, partner, _ = _index.bracket_labels(characters, real)
    assert len(labels) == len(partner) == len(text)
    _index.expected_within(characters, real, 10)
    _index.fresh_starts(characters, kinds)


PYTHON = 'def f(a):\n    """{ ("""\n    return {"x": [a[0], f"{a!r:>{3}}"]}  # )\n'
C = '#define F(x) (x)\n/* ( */ int main(void) { char c = \'{\'; return "a\\"(" [0] + (c); } // )\n'
CPP = 'template <class T> auto f(T&& t) { return [=](int a) { return R"x(()x"; }(t[0]); }\n' + C
JAVASCRIPT = "const f = (a) => { return `x${a[0] + `${(1)}`}` + /[(]/.test('('); } // }\n"
JAVA = '/** { */ class A<T> { @B(x = {1}) int f(int[] a) { return a["}".length()]; } }\n'
JSON = '{"a": [1, -2.5e3, {"b": "]\\"{"}], "c": null, "d": [[], {}]}\n'


def text(content: str) -> Callable[[], bytes]:
    return content.encode


def packed(content: str) -> Callable[[], bytes]:
    return lambda: gzip.compress(content.encode(), 1, mtime=0)


def _readers() -> dict[str, Reader]:
    made = [
        ("checkpoint", gd.load, "a.safetensors", checkpoint_seed, changed_safetensors),
        ("training", read_training, "a.safetensors", last_seed, changed_safetensors),
        ("resume", resume, "last.safetensors", last_seed, changed_safetensors),
        ("metrics", read_metrics, "metrics.jsonl", metrics_seed, changed_json_lines),
        ("schema", schema, "schema.json", schema_seed, changed_json_lines),
        ("fasta", read, "a.fa", text(FASTA), changed),
        ("fasta_gzip", read, "a.fa.gz", packed(FASTA), changed_gzip),
        ("genbank", read, "a.gbk", text(GENBANK), changed),
        ("genbank_gzip", read, "a.gbk.gz", packed(GENBANK), changed_gzip),
        ("gff3", read_gff3, "a.gff3", text(GFF3), changed),
        ("gff3_inside", read, "a.gff", text(INSIDE), changed),
        ("gtf", read_gff3, "a.gtf", text(GTF), changed),
        ("embl", read, "a.embl", text(EMBL), changed),
        ("sequences", read_sequences, "a.gbk", text(GENBANK), changed),
        ("gff3_beside", gff3_beside, "beside.gff3", text(GFF3), changed),
        ("table", a_table, "a.csv", text(TABLE), changed),
        ("table_gzip", a_table, "a.csv.gz", packed(TABLE), changed_gzip),
        ("npy", a_table, "a.npy", lambda: npy(STRUCTURED), changed_npy),
        ("npz", a_table, "a.npz", lambda: npz(**COLUMNS), changed_npz),
        ("parquet", a_table, "a.parquet", parquet_seed, changed),
        ("diagnose_npz", material._from_arrays, "a.npz", lambda: npz(x=X, y=X), changed_npz),
        ("source_python", source, "a.py", text(PYTHON), changed),
        ("source_c", source, "a.c", text(C), changed),
        ("source_cpp", source, "a.cpp", text(CPP), changed),
        ("source_javascript", source, "a.js", text(JAVASCRIPT), changed),
        ("source_java", source, "a.java", text(JAVA), changed),
        ("source_json", source, "a.json", text(JSON), changed),
    ]
    return {name: Reader(run, f"{name}/{file}", *how) for name, run, file, *how in made}


def last_seed() -> bytes:
    return (a_run() / "last.safetensors").read_bytes()


def metrics_seed() -> bytes:
    return (a_run() / "metrics.jsonl").read_bytes()


# ---- Calls ---------------------------------------------------------------------------------------

VALUES = (
    *(0, 1, 2, -1, 3, 7, 128, 129, 2**31 - 1, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(-(2**31) - 1, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 10**400),
)


def number(rng: random.Random) -> object:
    return rng.choice(
        (*VALUES, None, "x", "\ud800", True, np.int32(3), np.float16(0.5), [], (1, 2), 1j)
    )


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
    """Random descriptions of nets, and calls with them."""
    kinds = (gd.LSTM, gd.GRU, gd.RNN, gd.AntisymmetricRNN, gd.Linear, gd.Embedding, gd.Dense)
    kind = rng.choice(kinds)
    options: dict[str, object] = {}
    if kind is gd.Dense and rng.random() < 0.5:
        options["activation"] = rng.choice(("relu", "softplus", number(rng)))
    elif kind not in (gd.Linear, gd.Embedding, gd.Dense):
        names = ("bias", "bidirectional", "residual", "zoneout", "recurrent_dropout", "skip")
        for name in rng.sample(names, rng.randrange(3)):
            options[name] = number(rng)
        if rng.random() < 0.3:
            lag, value = rng.choice((1, 5, number(rng))), rng.choice((0.5, 0.5, number(rng)))
            options["skip"] = gd.Skip(lag, value=value)  # type: ignore[arg-type]
    sizes = [rng.choice((1, 2, 3, number(rng))) for _ in range(2)]
    layer = kind(*sizes, **options)  # type: ignore[arg-type]
    if all(isinstance(size, int) and size < 9 for size in sizes):
        more = (gd.RNN(sizes[1], 2),) if kind in (gd.Embedding, gd.Dense) else ()
        inside = rng.random() < 0.2
        made = gd.Residual(layer, *more) if inside else layer
        front = (gd.RNN(2, sizes[0]),) if kind is gd.Linear else ()
        net = gd.Stack(*front, made, *(() if inside else more))
        net.init(seed=rng.choice((0, number(rng))), chrono=rng.choice((None, number(rng))))


NETS = (
    gd.Stack(gd.LSTM(2, 3), gd.Linear(3, 2)),
    gd.Stack(gd.Embedding(4, 2), gd.GRU(2, 3, bidirectional=True), gd.Linear(6, 2)),
    gd.Stack(gd.RNN(2, 3, skip=gd.Skip(5, kind="mix", value=0.5))),
    gd.Stack(gd.Dense(2, 3, "gelu"), gd.Residual(gd.GRU(3, 4), gd.Dense(4, 3)), gd.Linear(3, 2)),
    gd.Stack(gd.GRU(2, 3), gd.Pool("attention", 3), gd.Dense(3, 2, "relu")),
    gd.Stack(gd.LSTM(2, 3, bidirectional=True), gd.Pool("max", 6), gd.Linear(6, 2)),
)
PARAMS = tuple(net.init(seed=0) for net in NETS)


def python_api(rng: random.Random) -> None:
    """Calls value_and_grad, apply and plan with random values for all arguments."""
    at = rng.randrange(len(NETS))
    net, params = NETS[at], PARAMS[at]
    tokens = net.embedding is not None
    steps, batch = rng.choice((1, 2, 140)), rng.choice((1, 2))
    x = np.zeros((steps, batch), np.int64) if tokens else np.zeros((steps, batch, 2), np.float32)
    y = np.zeros(net.positions(steps, batch), np.int64)
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
    """Passes plans of random operations directly to the core, which must refuse them or run within
    bounds.
    """
    at = rng.randrange(len(NETS))
    net, params = NETS[at], PARAMS[at]
    steps, batch = rng.choice((1, 100, 128, 300)), 2
    call = _core.Call(core_net(net, params.dtype), steps=steps, batch=batch)
    other = rng.random() < 0.2
    call.loss(
        rng.choice(("huber", "quantile", "gaussian_nll", "none")) if other else "mse",
        ignore_nan=rng.random() < 0.5,
        delta=rng.choice((1.0, 0.0, float("nan"))) if other else 1.0,
        quantiles=rng.choice(([0.5], [0.1, 0.9], [], [2.0], [0.5] * 99)) if other else [],
    )
    many = (*[1] * 12, 2, 0, -1, 2**31, 2**32, 2**60, 2**61, 2**62, 2**63 - 1)
    arrays: dict[str, object] = {"params": params.flat}
    if rng.random() < 0.2:
        K = rng.choice(many)
        call.tangents(K, curvature=rng.choice(("none", "hessian", "gauss_newton")))
        # If a count is too large for the core's sizes, the array has the size that is left after
        # overflow.
        size = K * params.flat.size % 2**64
        arrays["t_params"] = np.zeros(size if size < 10**5 else 0, np.float32)
        arrays["product"] = np.zeros_like(params.flat)
    if rng.random() < 0.2:
        call.cotangents(rng.choice(many), final_exponent=rng.choice((0, 9, -(2**31), 2**31 - 1)))
        call.hidden(rng.choice((0, 0, 0, 0, 1, -1, 2**31 - 1)))
        arrays["hidden"] = np.zeros((steps, batch, 3), np.float32)
        arrays["hidden_exponent"] = np.zeros(steps, np.int32)
    if net.embedding is not None:
        arrays["tokens"] = np.zeros((steps, batch), rng.choice((np.uint8, np.int32, np.int64)))
    else:
        arrays["x"] = np.zeros((steps, batch, 2), np.float32)
    rows = net.positions(net.output_steps(steps), batch)
    arrays["target"] = np.zeros((*rows, net.output_size), np.float32)
    arrays["grads"] = np.zeros_like(params.flat)
    arrays["outputs"] = np.zeros((*rows, net.output_size), np.float32)
    if rng.random() < 0.2:
        arrays[rng.choice(sorted(arrays))] = rng.choice((None, an_array(rng)))
    try:
        call.bind(**arrays)
    except (TypeError, ValueError, gd.InternalError) as error:
        raise Refused from error
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
    if rng.random() < 0.5:  # the right one, or nearly
        made = core_net(net, params.dtype)
        ends = [made.part_steps(part, steps) for part in range(made.n_parts)]
        ops = [(1, -1, -1, part, 0, end) for part, end in enumerate(ends)]
        ops += [(2, -2, -1, part, 0, ends[part]) for part in reversed(range(len(ends)))]
        if ops and rng.random() < 0.5:
            ops.pop(rng.randrange(len(ops)))
    length = rng.choice((steps,) * 8 + (128, 0, -1, 2**62))
    call.plan(np.array(ops, OP), segment_steps=length, slots=rng.choice((*many, 3, 9)))
    call.run()


def losses(rng: random.Random) -> None:
    """Makes losses with random options and targets, and gives CTC random labels and outputs."""
    kinds = (gd.loss.Huber, gd.loss.Quantile, gd.loss.GaussianNLL, gd.loss.NashSutcliffe)
    kind = rng.choice((*kinds, gd.loss.ErrorToSignal, gd.loss.CTC))
    names = [f.name for f in dataclasses.fields(kind)]
    options = {name: number(rng) for name in rng.sample(names, rng.randrange(2))}
    if kind is gd.loss.Quantile:
        options["quantiles"] = rng.choice((0.5, 0.5, [0.1, 0.9], [0.1, 0.9], an_array(rng)))
    steps, batch = rng.choice((1, 5, 130)), rng.choice((1, 2))
    x = np.random.default_rng(rng.randrange(99)).standard_normal((steps, batch, 2)).astype("f4")
    y: object = x[..., : rng.choice((1, 2))].copy()
    if kind is gd.loss.CTC:
        y = np.random.default_rng(rng.randrange(99)).integers(-1, 3, (batch, rng.randrange(4)))
    y = y if rng.random() < 0.9 else an_array(rng)
    spoiled = rng.choice((0.0, float("nan"), float("inf")))
    if rng.random() < 0.2 and isinstance(y, np.ndarray) and y.size and y.dtype.kind == "f":
        y.flat[rng.randrange(y.size)] = spoiled
    lengths = np.array([rng.randrange(steps + 1)] * batch) if rng.random() < 0.3 else None
    net, params = NETS[0], PARAMS[0]
    gd.value_and_grad(net, params, x, y, loss=kind(**options), lengths=lengths)  # type: ignore[arg-type]
    if rng.random() < 0.3:
        gd.ctc.decode(an_array(rng) if rng.random() < 0.3 else x, beam=rng.choice((None, 1, 9)))


def ctc_bindings(rng: random.Random) -> None:
    """Gives the bindings of CTC arrays of wrong sizes, types and contents."""
    shape = rng.choice(((3, 2, 4), (1, 1, 1), (0, 2, 3), (5, 2, 3)))
    outputs: Any = np.zeros(shape, rng.choice(("f4", "f8")))
    counts = np.array([rng.choice((0, 1, 2, -1, 2**62)) for _ in range(shape[1])])
    labels = np.array([rng.choice((1, 2, 0, -1, 99)) for _ in range(rng.randrange(5))], np.int64)
    wanted = np.zeros(shape, outputs.dtype) if rng.random() < 0.5 else None
    given: dict[str, Any] = {"labels": labels, "label_counts": counts, "gradient": wanted}
    given["factors"] = rng.choice((None, np.ones(shape[1])))
    if rng.random() < 0.3:
        given[rng.choice(list(given))] = an_array(rng)
    lengths = rng.choice((None, None, counts, an_array(rng)))
    blank, threads = rng.choice((0, 0, 1, -1, 2**62)), rng.choice((1, 2, 0, -1, 2**31 - 1))
    try:
        if rng.random() < 0.2:
            _core.ctc_decode(outputs, lengths, blank=blank, beam=rng.choice((0, 3, -1, 2**62)))
        elif rng.random() < 0.2:
            _core.ctc_bytes(shape[0], counts, classes=shape[2], gradient=True, threads=threads)
        else:
            _core.ctc_loss(outputs, lengths, blank=blank, threads=threads, **given)
    except gd.GradcoreError:
        raise
    except (TypeError, ValueError) as error:
        raise Refused from error


def optimizers(rng: random.Random) -> None:
    """Makes steps with extreme numbers; parameters must not change if a step is refused."""
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


def norms(rng: random.Random) -> None:
    """Calls spectral norms, singular values and the Lyapunov spectrum with random arguments."""
    shape = [rng.choice((1, 2, 3, 5)) for _ in range(rng.choice((2, 2, 3)))]
    if rng.random() < 0.5:
        shape = [shape[0]] * 2
    W = np.random.default_rng(rng.randrange(99)).standard_normal(shape)
    W = W.astype(rng.choice(("f4", "f8")))
    if rng.random() < 0.3:
        W.flat[rng.randrange(W.size)] = rng.choice((float("nan"), float("inf"), 1e300, 1e-300))
    given: Any = W if rng.random() < 0.7 else an_array(rng)
    names = rng.sample(("tol", "max_steps", "failure", "seed", "threads"), rng.randrange(3))
    options: dict[str, Any] = {name: number(rng) for name in names}
    match rng.randrange(3):
        case 0:
            gd.spectral.spectral_norm(given, **options)
        case 1:
            gd.spectral.singular_values(given, rng.choice((1, number(rng))))  # type: ignore[arg-type]
        case _:
            gd.spectral.spectral_radius(given)


def rarely(rng: random.Random, usual: Any) -> Any:
    """Returns an unusual value one time in eight."""
    return number(rng) if rng.random() < 0.125 else usual


def bindings(rng: random.Random) -> None:
    """Calls the private bindings with random arguments: Python exceptions are allowed, crashes are
    not.
    """
    array = an_array(rng)
    flat = np.zeros(rng.choice((0, 1, 4, 9)), rng.choice(("f4", "f8")))
    try:
        match rng.randrange(5):
            case 0:
                real = (
                    np.zeros(rng.choice((3, 3, 3, 0, 1)), np.uint8) if rng.random() < 0.5 else array
                )
                function = rng.choice(
                    (_index.bracket_labels, _index.fresh_starts, _index.expected_within)
                )
                more = (number(rng),) if function is _index.expected_within else ()
                function(np.full(3, rng.choice((40, 41, 93)), np.uint8), real, *more)
            case 1:
                out: dict[str, Any] = {
                    name: np.zeros(rng.choice((shape, shape, shape, (3,))), dtype)
                    for name, dtype, shape in (
                        ("values", "f8", (1,)),
                        ("residuals", "f8", (1,)),
                        ("left", "f4", (1, 2)),
                    )
                }
                out |= {"right": np.zeros((1, 2), "f4"), "steps": np.zeros(1, "i4")}
                out["converged"] = np.zeros(1, "i4")
                out.pop(rng.choice((*out, *" " * 30)), None)
                matrix: Any = np.ones((1, 2, 2), "f4") if rng.random() < 0.7 else array
                _core.spectral_norms(
                    matrix,
                    out,
                    start_left=rng.choice((None, None, array)),
                    start_right=rng.choice((None, None, array)),
                    tolerance=rarely(rng, 1e-3),
                    max_steps=rarely(rng, 9),
                    seed=rarely(rng, 0),
                    threads=rarely(rng, 1),
                    progress=rarely(rng, None),
                )
            case 2:
                segments: Any = [
                    tuple(rng.choice((0, 1, flat.size, number(rng))) for _ in range(6))
                    for _ in range(rng.randrange(3))
                ]
                if rng.random() < 0.5:
                    segments = [(0, flat.size, 0, 1.0, 0.0, rng.choice((1, 0, flat.size)))]
                update = _core.Update(
                    rng.choice(("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "x")),
                    flat,
                    segments=segments,
                    groups=rng.choice((1, 0, 3)),
                    first_moment=rng.choice((None, np.zeros_like(flat), array)),
                    second_moment=rng.choice((None, np.zeros_like(flat), array)),
                    velocity=rng.choice((None, np.zeros_like(flat))),
                )
                names = ("lr", "momentum", "alpha", "beta1", "beta2", "eps", "centered", "nesterov")
                for name in rng.sample(names, 2):
                    setattr(update, name, rng.choice((0, 0.5, number(rng))))
                if rng.random() < 0.5:
                    kind = rng.choice(("global", "segment", "value", "adaptive"))
                    update.set_clip(kind, limit=number(rng), exponent=number(rng), eps=1e-3)
                grads: Any = np.ones_like(flat) if rng.random() < 0.8 else array
                step = rarely(rng, 1)
                update.run(grads, exponent=rarely(rng, 0), step=step, threads=1)
            case 3:
                call = _core.Call(
                    core_net(NETS[0], PARAMS[0].dtype), steps=rarely(rng, 1), batch=rarely(rng, 1)
                )
                call.tangents(
                    rarely(rng, 0), curvature=rng.choice(("none", "none", "hessian", "x"))
                )
                call.cotangents(rarely(rng, 0), final_exponent=rarely(rng, 0))
                call.hidden(rarely(rng, 0))
                call.execution(threads=rarely(rng, 1))
                names = ("params", "x", "outputs", "grads", "target", "state", "t_params")
                right = {"params": PARAMS[0].flat, "x": np.zeros((1, 1, 2), np.float32)}
                right["outputs"] = np.zeros((1, 1, 2), np.float32)
                wrong = {name: rng.choice((flat, flat[:0])) for name in rng.sample(names, 2)}
                call.bind(**(right if rng.random() < 0.7 else right | wrong))
                call.plan(np.array([(3, -1, -1, 0, 0, 1)], OP), segment_steps=1, slots=0)
                call.run()
            case _:
                small = rng.choice((1, 2, 3)), rng.choice((1, 3, number(rng)))
                fields: dict[str, Any] = {"cell": "lstm", "skip_kind": "none", "skip_lag": 0}
                fields |= {"input_size": small[0], "hidden_size": small[1], "place": 0}
                fields |= dict.fromkeys(("step", "diffusion", "zoneout", "skip_value"), 0.0)
                if rng.random() < 0.5:
                    fields[rng.choice(list(fields))] = rng.choice(("lstm", "add", number(rng)))
                layer = _core.Layer(**fields)
                kinds = ("dense", "activation", "residual_begin", "residual_end", "layer_norm")
                pooled = rng.random() < 0.3
                transforms = [
                    _core.Transform(
                        kind="pool" if pooled else rng.choice(kinds),
                        before=rng.choice((0, 0, 1, number(rng))),
                        function=rng.choice(("mean", "attention", "x")) if pooled else "relu",
                        place=0,
                        eps=1.0,
                        inputs=rng.choice((*small, number(rng))),
                        outputs=rng.choice((*small, number(rng))),
                    )
                    for _ in range(rng.choice((0, 0, 1, 2, 3)))
                ]
                _core.Net(
                    dtype=rng.choice(("float32", "float64", "float64", "x")),
                    embedding_rows=rarely(rng, 0),
                    embedding_dim=rarely(rng, 0),
                    layers=[layer] * rng.choice((1, 1, 0, 2)),
                    head_outputs=rng.choice((0, 2, number(rng))),
                    head_bias=True,
                    transforms=transforms,
                ).state_size(rarely(rng, 2))
    except gd.GradcoreError:
        raise
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise Refused from error


READERS = _readers()
CALLS: dict[str, Callable[[random.Random], None]] = {
    "layers": layers,
    "python_api": python_api,
    "optimizers": optimizers,
    "norms": norms,
    "losses": losses,
    "core_plan": core_plan,
    "ctc_bindings": ctc_bindings,
    "bindings": bindings,
}
TARGETS = (*READERS, *CALLS)
