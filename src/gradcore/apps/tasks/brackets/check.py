"""Finds where the brackets of a file are wrong with a trained net, and how often it is right."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ....errors import CheckpointError
from . import evaluate, lexing
from .corrupt import corrupt
from .dataset import BROKEN, CLASSES, VOCABULARY
from .evaluate import locate
from .lexing import Document

NEAR = 3
"""A finding within this many lines of the first provable fault counts as right."""

_EXPECTED = {
    "none": "nothing is open",
    "(": "expected ')'",
    "[": "expected ']'",
    "{": "expected '}'",
}


@dataclass(frozen=True)
class Finding:
    """The first place where the brackets of a file are wrong; line and column count from 1."""

    path: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True)
class FaultShare:
    """The share of faults found within NEAR lines, in `files` files with one fault each."""

    files: int
    found: float


def default_checkpoint() -> Path:
    """The checkpoint that is part of gradcore; raises CheckpointError if it is missing."""
    path = Path(str(resources.files("gradcore.apps.tasks.brackets") / "brackets.safetensors"))
    if not path.is_file():
        raise CheckpointError(
            "this build of gradcore has no checkpoint. Make one with `gradcore train brackets` and "
            "name it with --checkpoint."
        )
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[gd.Stack, gd.Params]:
    """Loads a net that `gradcore train brackets` has saved.

    Raises CheckpointError if the file is damaged or has a net of another task.
    """
    net, params = gd.load(path)[:2]
    if (
        net.embedding is None
        or net.embedding.num_embeddings != VOCABULARY
        or net.output_size != len(CLASSES)
    ):
        raise CheckpointError(
            f"{os.fspath(path)} holds a net for another task: expected {VOCABULARY} tokens and "
            f"{len(CLASSES)} outputs. Use a checkpoint made by `gradcore train brackets`."
        )
    return net, params


def check_texts(
    net: gd.Stack,
    params: gd.Params,
    texts: Sequence[tuple[Path, str]],
    *,
    threads: int | None = None,
) -> Iterator[Finding | None]:
    """The first finding of each (path, text), in order; None if there is none."""
    tokens = [lexing.tokens_of(text) for _, text in texts]
    findings: dict[int, Finding] = {}
    for i, outputs in evaluate.outputs_of(net, params, tokens, threads=threads):
        position = locate(outputs)
        if position >= 0:
            findings[i] = _finding(*texts[i], position, outputs)
    for i in range(len(texts)):
        yield findings.get(i)


def fault_share(
    net: gd.Stack,
    params: gd.Params,
    documents: Iterable[Document],
    *,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    progress: evaluate.Progress | None = None,
) -> FaultShare:
    """Puts one fault into each balanced document and measures how often its line is found.

    A finding counts as right within NEAR lines of the first provable fault.
    """
    rng = np.random.default_rng(seed)
    texts: list[NDArray[np.uint8]] = []
    faults: list[int] = []
    for document in documents:
        changed = corrupt(document.characters, document.kinds, rng)
        if changed is not None:
            texts.append(changed.characters)
            faults.append(changed.fault)
    found = 0
    for i, outputs in evaluate.outputs_of(
        net, params, texts, threads=threads, memory=memory, progress=progress
    ):
        position = locate(outputs)
        if position >= 0:
            found += abs(_line(texts[i], position) - _line(texts[i], faults[i])) <= NEAR
    return FaultShare(len(texts), found / max(1, len(texts)))


def _line(characters: NDArray[np.uint8], position: int) -> int:
    return int(np.count_nonzero(characters[:position] == ord("\n")))


def _finding(path: Path, text: str, position: int, outputs: NDArray[np.float32]) -> Finding:
    if position == len(text):
        open_class = CLASSES[int(outputs[-1, :BROKEN].argmax())]
        position = len(text.rstrip())
        message = f"'{open_class}' is never closed"
    else:
        before = CLASSES[int(outputs[position - 1, :BROKEN].argmax())] if position else "none"
        what = f"'{text[position]}'" if text[position] in ")]}" else "a bracket near here"
        message = f"{what} does not match: {_EXPECTED[before]}"
    start = text.rfind("\n", 0, position) + 1
    return Finding(path, text.count("\n", 0, position) + 1, position - start + 1, message)
