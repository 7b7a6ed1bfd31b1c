"""Writes the report of a diagnosis as one HTML file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec

import numpy as np

from ._measured import Measured
from ._pictures import Panel, draw_panel, panels
from ._verdict import Finding

__all__ = ["page"]

# Light or dark as the reader's system is. Pictures are drawn on white; in the dark their lightness
# is turned round, their hues are kept, and what was white becomes the ground.
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f2f2f2; --line: #d9d9d6;
  --text: #1a1a1a; --quiet: #5a5a57; --warning: #c62828; --note: #ef9a1a; --good: #2e7d32; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181b; --panel: #24272c; --line: #3b3f45; --text: #dcdcd8; --quiet: #a2a29d;
    --warning: #ef6a63; --note: #efae4a; --good: #6cbf73; }
  img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 1.5rem auto;
  padding: 0 1rem; color: var(--text); background: var(--ground); text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, li, figcaption { overflow-wrap: break-word; }
code { background: var(--panel); padding: .1em .3em; overflow-wrap: anywhere; }
.finding { border-left: .3rem solid var(--line); margin: .8rem 0; padding: .1rem .9rem; }
.warning { border-color: var(--warning); } .note { border-color: var(--note); }
.good { border-color: var(--good); }
.level { font-weight: 600; } .remedy { color: var(--quiet); margin-top: -.4rem; }
.panels { display: grid; gap: 1.5rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-size: .9rem; color: var(--quiet); }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; } .wide { overflow-x: auto; }
td, th { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
"""


def page(m: Measured, findings: Sequence[Finding], net: str, facts: str) -> str:
    """The text of the HTML file. net, facts: the two lines above the verdict."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<meta name='color-scheme' content='light dark'>",
        f"<title>Gradient diagnosis</title><style>{STYLE}</style></head><body>",
        "<h1>Where the gradient goes</h1>",
        f"<p><code>{escape(net)}</code></p><p>{escape(facts)}</p>",
        "<h2>Verdict</h2>",
    ]
    for finding in findings:
        remedy = f"<p class='remedy'>{_text(finding.remedy)}</p>" if finding.remedy else ""
        parts.append(
            f"<div class='finding {finding.level}'><p><span class='level'>{finding.level}</span>: "
            f"{_text(finding.text)}</p>{remedy}</div>"
        )
    parts += ["<h2>Pictures</h2>", _pictures(m), _parameters(m)]
    if m.left_out:
        parts.append("<h2>Left out</h2><ul>")
        parts += [
            f"<li>{escape(part.replace('_', ' '))}: {_text(reason)}</li>"
            for part, reason in m.left_out.items()
        ]
        parts.append("</ul>")
    took = ", ".join(f"{part.replace('_', ' ')} {s:.1f} s" for part, s in m.seconds.items())
    parts.append(f"<p class='remedy'>Made by gradcore. Took: {escape(took)}.</p></body></html>")
    return "\n".join(parts) + "\n"


def _text(told: str) -> str:
    """Text as HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(told))


def _pictures(m: Measured) -> str:
    if find_spec("matplotlib") is None:
        return "<p>No pictures without matplotlib: pip install 'gradcore[plot]'.</p>"
    return f"<div class='panels'>{''.join(_figure(panel, m) for panel in panels(m))}</div>"


def _figure(panel: Panel, m: Measured) -> str:
    figure = draw_panel(panel, m)
    (axis,) = figure.axes
    told = escape(f"{axis.get_ylabel()} over {axis.get_xlabel()}", quote=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><h3>{escape(panel.title)}</h3>"
        f"<img alt='{told}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(panel.caption)}</figcaption></figure>"
    )


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
