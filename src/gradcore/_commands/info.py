"""`gradcore info`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

import gradcore as gd

from .app import app


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show version, compiler, instruction sets, OpenMP runtime and threads."""
    facts = asdict(gd.build_info())
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        text = " ".join(value) if isinstance(value, tuple) else str(value)
        print(f"{name.replace('_', ' '):<15} {text or 'unknown'}")
