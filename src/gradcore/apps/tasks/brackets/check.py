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
from .answers import BROKEN, CLASSES, OUTPUTS, answers_of
from .corrupt import corrupt
from .dataset import VOCABULARY
from .lexing import Document

LEAST_TRUST = "least_trust"
"""Where the metadata of a checkpoint have the limit for evaluate.locate."""
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


@dataclass(frozen=True)
class Checker:
    """A net that finds faults. least: see evaluate.locate."""

    net: gd.Stack
    params: gd.Params
    least: float


def load_checkpoint(path: str | os.PathLike[str]) -> Checker:
    """Loads a net that `gradcore train brackets` has saved.

    One that was saved before its training had ended has no limit of its own yet, and gets the
    usual one. Raises CheckpointError if the file is damaged or has a net of another task.
    """
    net, params, metadata = gd.load(path)
    least = metadata.get(LEAST_TRUST, evaluate.LEAST_TRUST)
    if (
        net.embedding is None
        or net.embedding.num_embeddings != VOCABULARY
        or net.output_size != OUTPUTS
        or not isinstance(least, float)
        or not 0 <= least <= 1
    ):
        raise CheckpointError(
            f"{os.fspath(path)} holds a net for another task: expected {VOCABULARY} tokens and "
            f"{OUTPUTS} outputs. Use a checkpoint made by `gradcore train brackets`."
        )
    return Checker(net, params, least)


def check_texts(
    checker: Checker,
    texts: Sequence[tuple[Path, str]],
    *,
    threads: int | None = None,
) -> Iterator[Finding | None]:
    """The first finding of each (path, text), in order; None if there is none."""
    tokens = [lexing.tokens_of(text) for _, text in texts]
    findings: dict[int, Finding] = {}
    for i, outputs in evaluate.outputs_of(checker.net, checker.params, tokens, threads=threads):
        position = evaluate.locate(tokens[i], outputs, checker.least)
        if position >= 0:
            findings[i] = _finding(*texts[i], position, outputs)
    for i in range(len(texts)):
        yield findings.get(i)


def fault_share(
    checker: Checker,
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
        checker.net, checker.params, texts, threads=threads, memory=memory, progress=progress
    ):
        position = evaluate.locate(texts[i], outputs, checker.least)
        if position >= 0:
            found += abs(_line(texts[i], position) - _line(texts[i], faults[i])) <= NEAR
    return FaultShare(len(texts), found / max(1, len(texts)))


def _line(characters: NDArray[np.uint8], position: int) -> int:
    return int(np.count_nonzero(characters[:position] == ord("\n")))


def _most_likely(outputs: NDArray[np.float32], least: int = 0) -> int:
    """The class with the largest answer in outputs [1, OUTPUTS], among those from `least` on."""
    return least + int(answers_of(outputs)[0, least:BROKEN].argmax())


def _finding(path: Path, text: str, position: int, outputs: NDArray[np.float32]) -> Finding:
    if position == len(text):
        open_class = CLASSES[_most_likely(outputs[-1:], least=1)]
        position = len(text.rstrip())
        message = f"'{open_class}' is never closed"
    else:
        before = CLASSES[_most_likely(outputs[position - 1 : position])] if position else "none"
        message = f"'{text[position]}' does not match: {_EXPECTED[before]}"
    start = text.rfind("\n", 0, position) + 1
    return Finding(path, text.count("\n", 0, position) + 1, position - start + 1, message)
