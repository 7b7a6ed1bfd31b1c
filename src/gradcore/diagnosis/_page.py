"""Writes the report of a diagnosis as one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec

import numpy as np

from ._measured import Measured
from ._pictures import draw
from ._verdict import Finding

__all__ = ["page"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
code { background: #f2f2f2; padding: .1em .3em; overflow-wrap: anywhere; }
.finding { border-left: .3rem solid #999; margin: .8rem 0; padding: .1rem .9rem; }
.warning { border-color: #c62828; } .note { border-color: #ef9a1a; }
.good { border-color: #2e7d32; }
.level { font-weight: 600; } .remedy { color: #444; margin-top: -.4rem; }
img { max-width: 100%; } table { border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
"""


def page(m: Measured, findings: Sequence[Finding], net: str, facts: str) -> str:
    """The text of the HTML file. net, facts: the two lines above the verdict."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Gradient diagnosis</title><style>{STYLE}</style></head><body>",
        "<h1>Where the gradient goes</h1>",
        f"<p><code>{escape(net)}</code></p><p>{escape(facts)}</p>",
        "<h2>Verdict</h2>",
    ]
    for finding in findings:
        remedy = f"<p class='remedy'>{escape(finding.remedy)}</p>" if finding.remedy else ""
        parts.append(
            f"<div class='finding {finding.level}'><p><span class='level'>{finding.level}</span>: "
            f"{escape(finding.text)}</p>{remedy}</div>"
        )
    parts += ["<h2>Pictures</h2>", _picture(m), _parameters(m)]
    if m.left_out:
        parts.append("<h2>Left out</h2><ul>")
        parts += [
            f"<li>{escape(part.replace('_', ' '))}: {escape(reason)}</li>"
            for part, reason in m.left_out.items()
        ]
        parts.append("</ul>")
    took = ", ".join(f"{part.replace('_', ' ')} {s:.1f} s" for part, s in m.seconds.items())
    parts.append(f"<p class='remedy'>Made by gradcore. Took: {escape(took)}.</p></body></html>")
    return "\n".join(parts) + "\n"


def _picture(m: Measured) -> str:
    if find_spec("matplotlib") is None:
        return "<p>No pictures without matplotlib: pip install 'gradcore[plot]'.</p>"
    buffer = io.BytesIO()
    draw(m).savefig(buffer, format="png", dpi=120)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='The numbers behind the verdict, drawn' src='data:image/png;base64,{data}'>"


def _parameters(m: Measured) -> str:
    if m.gradients is None:
        return ""
    rows = [
        f"<tr><td>{escape(name)}</td><td>{_power(log)}</td><td>{_power(m.sizes[name])}</td>"
        f"<td>{_power(log - m.sizes[name]) if np.isfinite(m.sizes[name]) else '-'}</td></tr>"
        for name, log in m.gradients.items()
    ]
    return (
        "<h2>Gradient by parameter</h2><div class='wide'><table><tr><th>parameter</th>"
        "<th>norm of the gradient</th><th>norm</th><th>ratio</th></tr>"
        f"{''.join(rows)}</table></div>"
    )


def _power(log: float) -> str:
    return "0" if np.isneginf(log) else f"10<sup>{log:.2f}</sup>"
