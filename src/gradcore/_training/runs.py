"""A run's folder: metrics.jsonl, last.safetensors and best.safetensors.

metrics.jsonl has one JSON object per update: step, epoch, loss, lr, grad_norm_log10 (null for a
zero gradient), clipped, update_ratio (norm of the update over that of the parameters), seconds
since the start, and score where there was an evaluation. With watch= every so often: watched_steps,
memory_length, horizon and hidden_gradient_log10 by recurrent layer, lyapunov and lyapunov_error;
clip_layer, clip_window and clip_share of some clipped updates; watch_missing says what could not be
found and why. With a StabilityMonitor: sharpness, sharpness_limit, stability_ratio, lr_stable, or
stability_missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .._base.files import FolderLock, remove_stale, replace_file
from .._net import io
from .._net.stack import Params
from ..errors import ArgumentError, CheckpointError
from .checkpoint import TrainingCheckpoint, read_training, write_training

__all__ = ["RunFolder", "read_metrics"]

METRICS, LAST, BEST = "metrics.jsonl", "last.safetensors", "best.safetensors"


class RunFolder:
    """The folder of one run, held against other processes from the moment it is made to close().

    Raises ArgumentError if another process trains there, CheckpointError if it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.last, self.best = self.folder / LAST, self.folder / BEST
        self.metrics = self.folder / METRICS
        self._lines: TextIO | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
            for path in (self.last, self.best, self.metrics):
                remove_stale(path)
        except BlockingIOError as error:
            raise ArgumentError(
                f"another process trains in {self.folder} right now. Wait until it has ended, or "
                "choose another folder."
            ) from error
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def earlier(self, resume: bool) -> TrainingCheckpoint | None:
        """The training to go on with, or None where one starts.

        Raises ArgumentError where there is a run and resume is False, or only a part of one;
        CheckpointError if its checkpoint is of no use.
        """
        if resume and self.last.exists():
            return read_training(self.last)
        found = [path.name for path in (self.last, self.best, self.metrics) if path.exists()]
        if found and not resume:
            raise ArgumentError(
                f"{self.folder} already holds a run ({', '.join(found)}). Pass resume=True to go "
                "on with it, or choose another folder; nothing was changed."
            )
        if found:
            raise ArgumentError(
                f"{self.folder} holds {', '.join(found)}, but no {LAST} to go on from. Move these "
                "files away to start anew."
            )
        return None

    def start(self, before: int) -> None:
        """Opens metrics.jsonl for the lines from step `before` on; later ones are cut."""
        try:
            if self.metrics.exists():
                kept = [json.dumps(line) + "\n" for line in _kept(self.metrics, before)]
                replace_file(self.metrics, lambda path: _write_text(path, "".join(kept)))
            self._lines = self.metrics.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.metrics, error) from error

    def write_line(self, line: dict[str, Any]) -> None:
        assert self._lines is not None
        try:
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        except OSError as error:
            raise _unwritable(self.metrics, error) from error

    def save_last(self, made: TrainingCheckpoint) -> None:
        """The lines so far are on the disk before the checkpoint that counts on them."""
        if self._lines is not None:
            os.fsync(self._lines.fileno())
        write_training(self.last, made)

    def save_best(self, params: Params, **metadata: Any) -> None:
        io.save(self.best, params.net, params, **metadata)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        self._lock.release()


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; run: its folder or the file itself.

    A last line that is not whole, as a killed or running training leaves it, is left out.
    Raises CheckpointError if there is no such file or it is not one that a run wrote.
    """
    path = Path(run)
    if path.is_dir():
        path = path / METRICS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path}: {reason}.") from error
    lines = []
    for number, entry in enumerate(text.split("\n")[:-1], start=1):
        line = _parsed(entry)
        if line is None:
            raise CheckpointError(
                f"{path}, line {number}: not a JSON object with a step, as a run writes it."
            )
        lines.append(line)
    return lines


def _kept(path: Path, before: int) -> Iterator[dict[str, Any]]:
    """Whole lines of steps before a step, up to the first that is something else."""
    for entry in path.read_bytes().split(b"\n")[:-1]:
        line = _parsed(entry.decode("utf-8", "replace"))
        if line is None or line["step"] >= before:
            return
        yield line


def _parsed(entry: str) -> dict[str, Any] | None:
    try:
        line = json.loads(entry)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    return line


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror or error}.")
