"""The folder of a run: metrics.jsonl, last.safetensors and best.safetensors.

metrics.jsonl has one JSON object per update: step, epoch, loss, lr, grad_norm_log10 (null for a
zero gradient), clipped, update_ratio (norm of the update divided by that of the parameters),
seconds since the start, and score if there was an evaluation. With watch=, some lines also have
watched_steps, memory_length, horizon and hidden_gradient_log10 for each recurrent layer, lyapunov
and lyapunov_error, and some clipped updates have clip_layer, clip_window and clip_share;
watch_missing gives the reason for what could not be measured. With a StabilityMonitor some lines
have sharpness, sharpness_limit, stability_ratio and lr_stable, or stability_missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from .._base.checks import path_like
from .._base.files import FolderLock, remove_stale
from .._base.output import write_text
from .._net import io
from .._net.stack import Params
from ..errors import ArgumentError, CheckpointError
from .checkpoint import TrainingCheckpoint, read_training, write_training

__all__ = ["RunFolder", "read_metrics"]

METRICS, LAST, BEST = "metrics.jsonl", "last.safetensors", "best.safetensors"


class RunFolder:
    """The folder of one run, locked against other processes until close().

    Raises ArgumentError if another process trains there, CheckpointError if it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = path_like("run", folder)
        self.last, self.best = self.folder / LAST, self.folder / BEST
        self.metrics = self.folder / METRICS
        self._lines: FileIO | None = None
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
        """The training to resume, or None if a new one starts.

        Raises ArgumentError if there is a run and resume is False, or if there are only parts of a
        run; CheckpointError if its checkpoint cannot be used.
        """
        if resume and self.last.exists():
            return read_training(self.last)
        found = [path.name for path in (self.last, self.best, self.metrics) if path.exists()]
        if found and not resume:
            raise ArgumentError(
                f"{self.folder} already holds a run ({', '.join(found)}). Pass resume=True to "
                "continue it, or choose another folder; nothing was changed."
            )
        if found:
            raise ArgumentError(
                f"{self.folder} holds {', '.join(found)}, but no {LAST} from which a run could "
                "continue. Move these files away to start a new run."
            )
        return None

    def start(self, before: int) -> None:
        """Opens metrics.jsonl; its lines from step `before` on are removed."""
        try:
            if self.metrics.exists():
                kept = [json.dumps(line) + "\n" for line in _kept(self.metrics, before)]
                write_text(self.metrics, "".join(kept))
            self._lines = FileIO(self.metrics, "a")
        except OSError as error:
            raise _unwritable(self.metrics, error) from error

    def write_line(self, line: dict[str, Any]) -> None:
        """Appends a line; raises CheckpointError and leaves no partial line if that fails."""
        assert self._lines is not None
        left = memoryview((json.dumps(line) + "\n").encode())
        before = None
        try:
            before = os.fstat(self._lines.fileno()).st_size
            while left:
                # A disk that is nearly full takes a part, and refuses the rest.
                left = left[self._lines.write(left) :]
        except OSError as error:
            if before is not None:
                with suppress(OSError):
                    self._lines.truncate(before)
            raise _unwritable(self.metrics, error) from error

    def save_last(self, made: TrainingCheckpoint) -> None:
        """Writes the checkpoint, after the lines so far have been flushed to disk."""
        if self._lines is not None:
            try:
                os.fsync(self._lines.fileno())
            except OSError as error:
                raise _unwritable(self.metrics, error) from error
        write_training(self.last, made)

    def save_best(self, params: Params, **metadata: Any) -> None:
        io.save(self.best, params.net, params, **metadata)

    def close(self) -> None:
        """Closes metrics.jsonl and releases the folder, even if the disk reports an error."""
        try:
            if self._lines is not None:
                self._lines.close()
        except OSError as error:
            raise _unwritable(self.metrics, error) from error
        finally:
            self._lines = None
            self._lock.release()


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; run: its folder or the file itself.

    An incomplete last line, which a killed or running training may leave, is left out.
    Raises CheckpointError if there is no such file or if no run wrote it.
    """
    path = path_like("run", run)
    if path.is_dir():
        path = path / METRICS
        if not path.exists():
            raise CheckpointError(f"{path.parent} holds no run: {METRICS} is not there.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is no {METRICS} of a run, which is text in UTF-8. Name the folder of a run."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    lines = []
    *complete, last = text.split("\n")
    if not complete and last and not last.startswith("{"):
        complete = [last]  # no run began to write this
    for number, entry in enumerate(complete, start=1):
        line = _parsed(entry)
        if line is None:
            raise CheckpointError(
                f"{path}, line {number}: a run writes one JSON object with a step per line, and "
                "this line is something else. Remove the line, or move the file away."
            )
        lines.append(line)
    return lines


def _kept(path: Path, before: int) -> Iterator[dict[str, Any]]:
    """The valid lines of steps below `before`, up to the first other line."""
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


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror or error}.")
