"""Diagnosis: the numbers and the verdict, as text, pictures, JSON or an HTML report."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .._base.checks import choice
from .._base.output import write_figure, write_text
from .._net.table import short
from ..jacobian import HiddenGradients
from ._measured import Measured
from ._page import page
from ._pictures import draw
from ._remedies import FRONTS, Front
from ._verdict import Finding, findings_of

__all__ = ["Diagnosis"]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The result of gradcore.diagnose; print(diagnosis) shows the verdict.

    measured: all numbers, by part. findings: the verdict, warnings first; each finding has its
    text, its remedy and the values behind it.
    """

    measured: Measured
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        m = self.measured
        return f"<Diagnosis of {m.net!r} over {m.steps} steps, {len(self.findings)} findings>"

    def worded_for(self, front: Front) -> Diagnosis:
        """The same diagnosis with remedies in the words of another front end.

        front: "python", "torch" (gradcore.torch), "csv" (`gradcore train csv`), "command"
        (`gradcore train brackets`, `dna` and `prophage`) or "task" (`gradcore train adding`,
        `copy`, `mqar` and `enhancer`).
        """
        choice("front", front, FRONTS)
        return replace(self, findings=findings_of(self.measured, front))

    def lines(self) -> list[str]:
        """The lines of the verdict as printed in a terminal."""
        m, lines = self.measured, [*self._head()]
        for finding in self.findings:
            lines += ["", f"{finding.level}: {finding.text}"]
            if finding.remedy:
                lines.append(f"  -> {finding.remedy}")
        if not self.findings:
            lines += ["", "no findings: see left_out, or ask for more parts."]
        for part, reason in m.left_out.items():
            lines += ["", f"left out: {part.replace('_', ' ')}: {reason}"]
        return lines

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The pictures as a matplotlib Figure, also saved if path is given, in its suffix's format.

        Raises ImportError without matplotlib, and OSError or ValueError if it cannot be saved.
        """
        figure = draw(self.measured)
        if path is not None:
            write_figure(path, figure, dpi=150)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """All numbers and findings as JSON values, with None for infinities and NaN."""
        m = self.measured
        found = {
            "net": repr(m.net),
            "findings": [
                {f.name: getattr(finding, f.name) for f in fields(finding)}
                for finding in self.findings
            ],
        }
        for part in fields(m):
            if part.name != "net":
                found[part.name] = getattr(m, part.name)
        plain = _plain(found)
        assert isinstance(plain, dict)
        return plain

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """All numbers and findings as JSON text, also written to a file if path is given."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A report with verdict, pictures and numbers as HTML that loads nothing from elsewhere.

        It is also written to a file if path is given. The pictures need matplotlib; without it the
        report says so.
        """
        net, facts = self._head()
        text = page(self.measured, self.findings, net, facts)
        if path is not None:
            write_text(path, text)
        return text

    def _head(self) -> tuple[str, str]:
        """Two lines above the verdict: the net, and the data that it was measured on."""
        m = self.measured
        batch = f"{m.batch} sequences" if m.batch != 1 else "1 sequence"
        loss = "" if m.loss is None else f", loss {m.loss:.4g}"
        net = " > ".join(map(short, m.net.nested))
        return net, f"{m.steps:,} steps, {batch}, {m.dtype}{loss}"


def _plain(value: Any) -> Any:
    """A result as JSON values."""
    if isinstance(value, HiddenGradients):
        kept = {"layer": value.layer, "reverse": value.reverse, "norm_log10": value.norm_log10}
        return _plain(kept)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        # Six digits are enough, and files stay small: some arrays have a number for every step.
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
