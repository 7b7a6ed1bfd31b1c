"""A trained net with data to measure it on: data of its own task, or arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ... import _index
from ..._training.runs import BEST, LAST
from ...diagnosis._remedies import Front
from . import numpyfile
from .brackets import dataset as brackets
from .brackets import lexing, sources
from .brackets.answers import targets_of
from .dna.genome import Record
from .dna.labels import CLASSES as GENE_CLASSES
from .dna.labels import Labels
from .dna.labels import labels as gene_labels
from .dna.labels import tokens as base_tokens
from .dna.records import read as read_genomes
from .dna.train import width_of
from .piped import kept
from .prophage import regions
from .synthetic import job as synthetic
from .synthetic.task import Task
from .table import dataset as table
from .table import predict
from .table.base import begins_of, inputs
from .table.batches import targets
from .table.train import loss as loss_of_table
from .table.wanted import Wanted

__all__ = ["Material", "material"]

# Tasks that read genomes, with their labels and how many classes these have.
GENOMIC: dict[str, tuple[Callable[[Record], Labels], int]] = {
    "dna": (gene_labels, len(GENE_CLASSES)),
    "prophage": (regions.labels, len(regions.CLASSES)),
}
MOST_STEPS = 10_000
"""The steps that are measured if no number is given."""
# A net with so many parameters is diagnosed on MOST_STEPS steps in about ten seconds on two cores.
# For larger ones the time of a step grows with this power of their number; most of it is for
# singular values and amplification.
_PARAMETERS, _POWER = 80_000, 1.6
_LEAST_STEPS = 200
ARRAYS = ("x", "y", "lengths", "weight", "reset")


@dataclass(frozen=True, eq=False)
class Material:
    """A net and a batch for it. y and loss: None where there are no targets. told: its origin.

    front: what trained the net, in whose words a diagnosis gives advice; see
    gradcore.diagnosis.Diagnosis.worded_for.
    """

    net: gd.Stack
    params: gd.Params
    batch: gd.Batch
    loss: str | gd.loss.Loss | None
    told: str
    front: Front


@kept()
def material(
    checkpoint: str | Path,
    files: Sequence[Path] = (),
    *,
    loss: gd.loss.Loss | None = None,
    steps: int | None = None,
    sequences: int = 1,
    seed: int = 0,
) -> Material:
    """The net of a checkpoint, or of the folder of a run, with data that it can read.

    files: source files for a net of `gradcore train brackets` (none: the longest that are found on
    this machine), genomes for one of `gradcore train dna` or `gradcore train prophage`, tables for
    one of `gradcore train csv`, one .npz with x, and if wanted y, lengths, weight and reset, for
    any other net, with the loss of y. None for a net of the synthetic tasks, which draw their own;
    else random input. At most `steps` steps of `sequences` sequences, from the beginning. None
    means MOST_STEPS; without files it means fewer for a large net, because a diagnosis would take
    minutes, and `told` says how many.
    Raises CheckpointError, ArgumentError, OSError.
    """
    path = _file_of(Path(checkpoint))
    net, params, metadata = gd.load(path)
    task = _recorded(path.parent)
    front = _front(metadata, task)
    few, steps = _few_steps(net, steps, sequences), steps or MOST_STEPS
    if metadata.get("task") == "brackets":
        batch, told = _from_source(files, steps if files else few, sequences)
        return Material(net, params, batch, "cross_entropy", told, front)
    if metadata.get("task") in GENOMIC and files:
        labels, classes = GENOMIC[metadata["task"]]
        batch, told = _from_genomes(net, files, steps, sequences, labels, classes)
        known = None if batch.y is None else "cross_entropy"
        return Material(net, params, batch, known, told, front)
    if predict.METADATA in metadata and files:
        model = predict.load_model(path)
        batch, told = _from_table(model, files)
        loss = None if batch.y is None else loss_of_table(model.schema)
        return Material(net, params, _part(batch, steps, sequences, loss), loss, told, front)
    if len(files) == 1 and files[0].suffix == ".npz":
        batch = _part(_from_arrays(files[0]), steps, sequences, loss)
        return Material(net, params, batch, loss, f"arrays of {files[0]}", front)
    if files:
        raise gd.ArgumentError(
            f"{path} was not trained by a command that reads such files. Give one .npz file with x "
            "(and y, with --loss), or no file for random input."
        )
    if task is not None and task.steps <= steps:
        told = f"held-out sequences of {task.name}, T = {task.length:,}"
        return Material(net, params, task.held_out(sequences), task.loss, told, front)
    rng = np.random.default_rng(seed)
    x: NDArray[Any]
    if net.embedding is not None:
        x = rng.integers(0, net.embedding.num_embeddings, (few, sequences))
    else:
        x = rng.standard_normal((few, sequences, net.input_size)).astype(params.dtype)
    told = f"{few:,} steps of random input, as no data were given"
    return Material(net, params, gd.Batch(x, None), None, told, front)


def _few_steps(net: gd.Stack, steps: int | None, sequences: int) -> int:
    """The steps to measure without data: `steps`, or as many as take some ten seconds."""
    if steps is not None:
        return steps
    share: float = min(1.0, _PARAMETERS / (net.n_parameters * sequences)) ** _POWER
    return max(_LEAST_STEPS, round(MOST_STEPS * share))


def _front(metadata: Mapping[str, Any], task: Task | None) -> Front:
    """What trained a net, by what was saved with it and by the task of its run's folder."""
    if predict.METADATA in metadata:
        return "csv"
    if metadata.get("task") in ("brackets", *GENOMIC):
        return "command"
    return "python" if task is None else "task"


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise gd.CheckpointError(f"{path} holds no run: neither {BEST} nor {LAST} is there.")


def _recorded(folder: Path) -> Task | None:
    """The synthetic task of a run's folder; None if the run is something else."""
    try:
        found = synthetic.recorded(folder)
    except gd.CheckpointError:
        return None
    return None if found is None else found[0]


def _from_arrays(path: Path) -> gd.Batch:
    loaded = numpyfile.read_arrays(path)
    if not isinstance(loaded, dict) or "x" not in loaded or not loaded.keys() <= set(ARRAYS):
        found = ", ".join(loaded) or "nothing" if isinstance(loaded, dict) else "one array"
        raise gd.ArgumentError(
            f"{path} must hold x, and may hold {', '.join(ARRAYS[1:])}; it holds {found}."
        )
    given: dict[str, Any] = {"y": None, **loaded}
    return gd.Batch(**given)


def _part(batch: gd.Batch, steps: int, sequences: int, loss: str | gd.loss.Loss | None) -> gd.Batch:
    """The first steps of the first sequences."""

    def cut(array: Any) -> Any:
        return None if array is None else np.ascontiguousarray(array[:steps, :sequences])

    def cut_target(array: Any) -> Any:
        last = isinstance(loss, gd.loss.Loss) and loss.step == "last"
        return array[:sequences] if last and array is not None else cut(array)

    lengths = batch.lengths
    if lengths is not None:
        lengths = np.minimum(lengths[:sequences], steps)
    return gd.Batch(
        cut(batch.x), cut_target(batch.y), lengths, cut_target(batch.weight), cut(batch.reset)
    )


def _from_source(files: Sequence[Path], steps: int, sequences: int) -> tuple[gd.Batch, str]:
    """Whole source files side by side, the longest first."""
    found = sorted(sources.find(files).files, key=lambda file: -file.size)
    documents: list[lexing.Document] = []
    for document in lexing.load(found[: 2 * sequences], lexing.LexCache()):
        if document is not None and len(document) and len(documents) < sequences:
            documents.append(document)
    if not documents:
        raise gd.ArgumentError("no source file that can be read was found; name some.")
    lengths = np.array([min(steps, len(document)) for document in documents])
    shape = (int(lengths.max()), len(documents))
    x, y = np.zeros(shape, np.uint8), np.zeros(shape, np.int64)
    weight = np.zeros(shape, np.float32)
    for b, (document, n) in enumerate(zip(documents, lengths, strict=True)):
        x[:n, b] = document.characters[:n]
        real = lexing.real_of(document.kinds[:n])
        labels, distances, fault = _index.bracket_labels(x[:n, b].copy(), real)
        y[:n, b] = targets_of(labels, document.kinds[:n])
        weight[:n, b] = brackets.Weights().of(labels, distances, fault, at_end=n == len(document))
    told = ", ".join(document.source.name for document in documents)
    return gd.Batch(x, y, lengths, weight), f"source: {told}"


def _from_genomes(
    net: gd.Stack,
    files: Sequence[Path],
    steps: int,
    sequences: int,
    labels: Callable[[Record], Labels],
    classes: int,
) -> tuple[gd.Batch, str]:
    """The first bases of the longest records side by side; targets where all have genes."""
    width = width_of(net, classes)
    found = sorted((r for path in files for r in read_genomes(path)), key=len, reverse=True)
    some = found[:sequences]
    lengths = np.array([min(steps, len(record)) for record in some])
    shape = (int(lengths.max()), len(some))
    x, y, weight = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    known = all(record.genes is not None for record in some)
    for b, (record, n) in enumerate(zip(some, lengths, strict=True)):
        x[:n, b] = base_tokens(record.letters, width)[:n]
        if known:
            own = labels(record)
            y[:n, b], weight[:n, b] = own.classes[:n], own.counts[:n]
    told = f"the first {lengths.max():,} bases of {', '.join(record.name for record in some)}"
    return gd.Batch(x, y if known else None, lengths, weight if known else None), told


def _from_table(model: predict.Model, files: Sequence[Path]) -> tuple[gd.Batch, str]:
    """The sequences of tables side by side, in the order of the files."""
    x, y, groups = table.load_targets(files, model.schema, Wanted())
    lengths = groups.lengths
    shape = (int(lengths.max()), len(lengths))
    base, front = model.base, None
    if base is not None:
        front = base.linear.values(x, np.arange(len(x)), begins_of(groups.starts))
    read = inputs(x, front)
    padded = np.zeros((*shape, *read.shape[1:]), read.dtype)
    inside = np.arange(shape[0])[:, None] < lengths
    padded.transpose(1, 0, *range(2, padded.ndim))[inside.T] = read
    told = f"{len(lengths):,} sequences of {', '.join(map(str, files))}"
    if y is None:
        return gd.Batch(padded, None, lengths), f"{told}, without {model.schema.target.name}"
    known, values = ~np.isnan(y), targets(model.schema, y, base, front)
    if model.schema.target.per == "sequence":
        return gd.Batch(padded, values, lengths, known.astype(np.float32)), told
    target = np.zeros((*shape, *values.shape[1:]), values.dtype)
    weight = np.zeros(shape, np.float32)
    target.transpose(1, 0, *range(2, target.ndim))[inside.T] = values
    weight.T[inside.T] = known
    return gd.Batch(padded, target, lengths, weight), told
