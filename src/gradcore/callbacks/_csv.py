"""A logger that writes a CSV file."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any, TextIO

from .._base.checks import path_like
from .._base.output import check_output, write_text
from ..errors import ArgumentError
from ._logger import Logger
from ._view import FitView

__all__ = ["CSVLogger"]

_COLUMNS = ("step", "epoch", "loss", "lr", "grad_norm_log10", "clipped", "update_ratio")
COLUMNS = (*_COLUMNS, "seconds", "score")


class CSVLogger(Logger):
    """Writes a table with a row per update: step, epoch, loss, lr and others, and the score.

    Losses of several heads are not in it: metrics.jsonl and the other loggers have them.
    path: the file. Its rows of earlier steps are kept, so that a resumed run goes on with its
    table; the others are replaced, so that a new training starts a new table. every: write every
    `every`-th update, and all that have a score. An empty cell is a number that there is not. The
    last row is complete once the next update has been made, or the fit has ended. Raises
    ArgumentError if the file is some other table or cannot be written, or DTypeError.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        super().__init__(every)
        self.path = path_like("path", path)
        check_output(self.path)
        _rows(self.path)
        self._file: TextIO | None = None
        # The row of the last update, to which an evaluation may add the score.
        self._row: dict[str, Any] | None = None

    def _write(self, view: FitView, values: dict[str, float]) -> None:
        line = view.metrics
        if not line:  # an evaluation of a net whose last update is that of an earlier fit
            return
        if self._row is not None and self._row["step"] != line["step"]:
            self._flush()
        self._row = line

    def _flush(self) -> None:
        if self._row is None:
            return
        try:
            if self._file is None:
                self._file = _opened(self.path, self._row["step"])
            self._file.write(_as_text(self._row))
            self._file.flush()
        except OSError as error:
            raise ArgumentError(f"cannot write {self.path}: {error.strerror or error}.") from error
        self._row = None

    def _close(self, view: FitView) -> None:
        try:
            self._flush()
        finally:
            file, self._file, self._row = self._file, None, None
            if file is not None:
                file.close()


def _as_text(row: dict[str, Any]) -> str:
    made = io.StringIO()
    cells = [row.get(name) for name in COLUMNS]
    csv.writer(made, lineterminator="\n").writerow(["" if v is None else v for v in cells])
    return made.getvalue()


def _rows(path: Path) -> list[str]:
    """The complete rows of a table of this logger; raises ArgumentError for other files."""
    if not path.is_file() or path.stat().st_size == 0:
        return []
    header, *rows = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
    if header != ",".join(COLUMNS):
        raise ArgumentError(
            f"{path} is not a table that CSVLogger has written; nothing was changed. Name another "
            "file."
        )
    return rows


def _opened(path: Path, first: int) -> TextIO:
    """The file, open at its end, with its rows of steps below `first`."""
    kept = [",".join(COLUMNS)]
    for row in _rows(path):
        step = row.partition(",")[0]
        if not step.isdigit() or int(step) >= first:
            break
        kept.append(row)
    write_text(path, "\n".join(kept) + "\n")
    return path.open("a", encoding="utf-8", newline="")
