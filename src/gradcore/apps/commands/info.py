"""`gradcore info`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

import gradcore as gd

from .app import app, errors, show


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    include_dir: Annotated[
        bool, typer.Option("--include-dir", help="Print only the folder of the headers.")
    ] = False,
    cmake_dir: Annotated[
        bool,
        typer.Option("--cmake-dir", help="Print only the folder of the CMake package."),
    ] = False,
    pkgconfig_dir: Annotated[
        bool, typer.Option("--pkgconfig-dir", help="Print only the folder of gradcore.pc.")
    ] = False,
) -> None:
    """Show version, compiler, instruction sets, OpenMP runtime and threads.

    The options that print folders are for projects that compile against gradcore, for example
    cmake -DCMAKE_PREFIX_PATH="$(gradcore info --cmake-dir)".
    """
    folders = (
        ("include_dir", include_dir, gd.get_include),
        ("cmake_dir", cmake_dir, gd.get_cmake_dir),
        ("pkgconfig_dir", pkgconfig_dir, gd.get_pkgconfig_dir),
    )
    wanted = {name: folder for name, asked, folder in folders if asked}
    if wanted:
        with errors():
            found = {name: folder() for name, folder in wanted.items()}
            show(json.dumps(found, indent=2) if as_json else "\n".join(found.values()))
        return
    facts = asdict(gd.build_info())
    if as_json:
        show(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        text = " ".join(value) if isinstance(value, tuple) else str(value)
        show(f"{name.replace('_', ' '):<15} {text or 'unknown'}")
