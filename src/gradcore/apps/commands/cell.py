"""`gradcore cell`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import gradcore as gd

from ..._net.compiler import cache_folder, compiler
from .app import app, errors, fail, show


@app.command()
def cell(
    file: Annotated[Path, typer.Argument(help="C++ of one struct, in the language of cells.")],
    name: Annotated[
        str | None, typer.Option(help="The struct; left out: the first one of the file.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option with its default, as leak=0.1; several times for several."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
) -> None:
    """Compile a cell of your own, check it, and say what a layer of it has.

    The file is that of gradcore.cells.compile. What was compiled is kept, so that a program that
    compiles the same source need not wait.
    """
    with errors():
        options = dict(_pair(text) for text in option or ())
        try:
            source = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            fail(f"{file} is not text in UTF-8: {error.reason}.")
        began = time.perf_counter()
        layer = gd.cells.compile(source, name=name, options=options, dtype=dtype)
        took = time.perf_counter() - began
        _try(layer, dtype)
        show(f"{layer.__name__} compiled in {took:.1f} s by {' '.join(compiler())}")
        show(f"gates    {' '.join(layer.cell.gates)}")
        show(f"states   {' '.join(layer.cell.states)}")
        for key, value in options.items():
            show(f"option   {key} = {value:g}")
        show("derivative of forward: agrees with differences of a loss over 20 steps")
        show(f"kept in  {cache_folder()}")


def _pair(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        return key, float(value)
    except ValueError:
        fail(f"--option must be a name and a number, as leak=0.1; got {text!r}.")


def _try(layer: type[gd.cells.CompiledCell], dtype: str) -> None:
    """Compares the gradient of a small net along one direction with a difference quotient."""
    net = gd.Stack(layer(3, 5))
    rng = np.random.default_rng(0)
    params = net.init(seed=0, dtype=dtype)
    x = rng.standard_normal((20, 2, 3)).astype(dtype)
    y = np.zeros((20, 2, 5), dtype)
    along = rng.standard_normal(params.flat.size)
    along /= np.linalg.norm(along)
    grads = gd.value_and_grad(net, params, x, y, loss="mse").grads
    assert grads is not None
    step = 1e-2 if dtype == "float32" else 1e-5

    def value(size: float) -> float:
        return gd.value(
            net, gd.Params(net, (params.flat + size * along).astype(dtype)), x, y, loss="mse"
        )

    slope = (value(step) - value(-step)) / (2 * step)
    got = float(grads.flat @ along) * 2.0**grads.exponent
    tolerance = 1e-2 if dtype == "float32" else 1e-5
    if not abs(got - slope) <= tolerance * (1 + abs(slope)):
        fail(
            f"the gradient of a loss along one direction is {got:.6g}, and differences give "
            f"{slope:.6g}. The cell may jump, or have a kink, where it was tried."
        )
