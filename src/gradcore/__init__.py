"""Recurrent nets with exact gradients over very long sequences: training, diagnosis, remedies.

import gradcore as gd

net = gd.Stack(gd.Embedding(128, 16), gd.LSTM(16, 128), gd.Linear(128, 5))
params = net.init(seed=0)
optimizer = gd.optim.Adam(params, lr=2e-3, clip=gd.clip.GlobalNorm(1.0))
result = gd.value_and_grad(net, params, x, y, loss="cross_entropy", memory="256MB")
optimizer.step(result.grads)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Type checkers and editors read these lines. At run time a module is imported when one of its names
# is first used, so that `gradcore --version` need not load NumPy.
if TYPE_CHECKING:
    from . import amplification as amplification
    from . import callbacks as callbacks
    from . import cells as cells
    from . import clip as clip
    from . import constrain as constrain
    from . import ctc as ctc
    from . import data as data
    from . import diagnosis as diagnosis
    from . import errors as errors
    from . import gates as gates
    from . import horizon as horizon
    from . import implicit as implicit
    from . import info as info
    from . import init as init
    from . import jacobian as jacobian
    from . import loss as loss
    from . import lyapunov as lyapunov
    from . import optim as optim
    from . import schedule as schedule
    from . import spectral as spectral
    from . import stability as stability
    from ._base.embed import get_cmake_dir as get_cmake_dir
    from ._base.embed import get_include as get_include
    from ._base.embed import get_library_dir as get_library_dir
    from ._base.embed import get_link_args as get_link_args
    from ._base.embed import get_pkgconfig_dir as get_pkgconfig_dir
    from ._engine.calls import GradientResult as GradientResult
    from ._engine.calls import apply as apply
    from ._engine.calls import release_memory as release_memory
    from ._engine.calls import value as value
    from ._engine.calls import value_and_grad as value_and_grad
    from ._engine.passes import Pass as Pass
    from ._engine.passes import PassGradient as PassGradient
    from ._engine.passes import forward as forward
    from ._engine.planner import Plan as Plan
    from ._engine.planner import plan as plan
    from ._engine.stepper import Stepper as Stepper
    from ._engine.summary import LayerSummary as LayerSummary
    from ._engine.summary import Summary as Summary
    from ._engine.summary import summary as summary
    from ._export.export import export as export
    from ._export.pytorch import from_torch as from_torch
    from ._export.pytorch import to_torch as to_torch
    from ._net.cells import GRU as GRU
    from ._net.cells import LSTM as LSTM
    from ._net.cells import RNN as RNN
    from ._net.cells import AntisymmetricRNN as AntisymmetricRNN
    from ._net.convolution import Conv1d as Conv1d
    from ._net.io import Checkpoint as Checkpoint
    from ._net.io import load as load
    from ._net.io import save as save
    from ._net.layers import Dense as Dense
    from ._net.layers import Dropout as Dropout
    from ._net.layers import Embedding as Embedding
    from ._net.layers import Heads as Heads
    from ._net.layers import LayerNorm as LayerNorm
    from ._net.layers import Linear as Linear
    from ._net.layers import Pool as Pool
    from ._net.layers import Recurrent as Recurrent
    from ._net.layers import Residual as Residual
    from ._net.layers import Skip as Skip
    from ._net.stack import Grads as Grads
    from ._net.stack import Params as Params
    from ._net.stack import Stack as Stack
    from ._net.state import LayerState as LayerState
    from ._net.state import zero_state as zero_state
    from ._net.static_input import StaticInput as StaticInput
    from ._net.traced import cell as cell
    from ._net.windows import AvgPool1d as AvgPool1d
    from ._net.windows import Frames as Frames
    from ._net.windows import MaxPool1d as MaxPool1d
    from ._training.minimize import minimize as minimize
    from ._training.report import FitReport as FitReport
    from ._training.trainer import Trainer as Trainer
    from .data import Batch as Batch
    from .diagnosis import diagnose as diagnose
    from .errors import ArgumentError as ArgumentError
    from .errors import CheckpointError as CheckpointError
    from .errors import CompileError as CompileError
    from .errors import ConditioningWarning as ConditioningWarning
    from .errors import ConvergenceWarning as ConvergenceWarning
    from .errors import DTypeError as DTypeError
    from .errors import GradcoreError as GradcoreError
    from .errors import InternalError as InternalError
    from .errors import MemoryBudgetError as MemoryBudgetError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import OutOfMemoryError as OutOfMemoryError
    from .errors import ShapeError as ShapeError
    from .info import BuildInfo as BuildInfo
    from .info import build_info as build_info

    __version__: str

# Public modules, and other names by the module that has them.
_MODULES = (
    "amplification",
    "callbacks",
    "cells",
    "clip",
    "constrain",
    "ctc",
    "data",
    "diagnosis",
    "errors",
    "gates",
    "horizon",
    "implicit",
    "info",
    "init",
    "jacobian",
    "loss",
    "lyapunov",
    "optim",
    "schedule",
    "spectral",
    "stability",
)
_NAMES = {
    "_base.embed": (
        "get_cmake_dir",
        "get_include",
        "get_library_dir",
        "get_link_args",
        "get_pkgconfig_dir",
    ),
    "_engine.calls": ("GradientResult", "apply", "release_memory", "value", "value_and_grad"),
    "_engine.passes": ("Pass", "PassGradient", "forward"),
    "_engine.planner": ("Plan", "plan"),
    "_engine.stepper": ("Stepper",),
    "_engine.summary": ("LayerSummary", "Summary", "summary"),
    "_export.export": ("export",),
    "_export.pytorch": ("from_torch", "to_torch"),
    "_net.cells": ("GRU", "LSTM", "RNN", "AntisymmetricRNN"),
    "_net.convolution": ("Conv1d",),
    "_net.io": ("Checkpoint", "load", "save"),
    "_net.layers": (
        "Dense",
        "Dropout",
        "Embedding",
        "Heads",
        "LayerNorm",
        "Linear",
        "Pool",
        "Recurrent",
        "Residual",
        "Skip",
    ),
    "_net.windows": ("AvgPool1d", "Frames", "MaxPool1d"),
    "_net.stack": ("Grads", "Params", "Stack"),
    "_net.state": ("LayerState", "zero_state"),
    "_net.static_input": ("StaticInput",),
    "_net.traced": ("cell",),
    "_training.minimize": ("minimize",),
    "_training.report": ("FitReport",),
    "_training.trainer": ("Trainer",),
    "data": ("Batch",),
    "diagnosis": ("diagnose",),
    "errors": (
        "ArgumentError",
        "CheckpointError",
        "CompileError",
        "ConditioningWarning",
        "ConvergenceWarning",
        "DTypeError",
        "GradcoreError",
        "InternalError",
        "MemoryBudgetError",
        "NonFiniteError",
        "OutOfMemoryError",
        "ShapeError",
    ),
    "info": ("BuildInfo", "build_info"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def _cells() -> dict[str, Any]:
    """Cells that the core has and that need no class written out."""
    from ._net import cells

    return {kind.__name__: kind for kind in cells.CELLS}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _MODULES:
        value = import_module(f".{name}", __name__)
    elif name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name == "__version__":
        value = import_module(".info", __name__).VERSION
    elif name.startswith("_") or (value := _cells().get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *_MODULES, *_HOMES, *_cells(), "__version__"})
