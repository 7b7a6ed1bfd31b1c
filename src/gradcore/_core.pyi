"""
Bindings of libgradcore. Private: import gradcore instead.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = [
    "FROM_PREVIOUS",
    "FROM_START",
    "OP_BACKWARD",
    "OP_COTANGENT",
    "OP_EMIT",
    "OP_FORWARD",
    "OP_TAPE",
    "TO_NOWHERE",
    "Call",
    "CellFacts",
    "GroupNorms",
    "Layer",
    "Net",
    "Report",
    "Transform",
    "Update",
    "block_steps",
    "cell_facts",
    "cell_runs",
    "compile_flags",
    "compiler",
    "ctc_bytes",
    "ctc_decode",
    "ctc_loss",
    "default_threads",
    "empty",
    "force_isa",
    "foreign_function",
    "isa_available",
    "isa_in_use",
    "load_cell",
    "measure_flops",
    "measure_reads",
    "openmp_runtime",
    "release_memory",
    "spectral_norms",
    "version",
]

class CellFacts:
    """
    What the core knows of a recurrent cell.
    """
    @property
    def antisymmetric(self) -> bool: ...
    @property
    def functions(self) -> str: ...
    @property
    def gates(self) -> str: ...
    @property
    def input_gate(self) -> str: ...
    @property
    def keeps_gates(self) -> bool: ...
    @property
    def memory_gate(self) -> str: ...
    @property
    def n_gates(self) -> int: ...
    @property
    def n_planes(self) -> int: ...
    @property
    def n_saved(self) -> int: ...
    @property
    def n_states(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def options(self) -> str: ...
    @property
    def states(self) -> str: ...

class Layer:
    """
    A recurrent layer as the core sees it.
    """
    def __init__(
        self,
        *,
        cell: str,
        input_size: typing.SupportsInt | typing.SupportsIndex,
        hidden_size: typing.SupportsInt | typing.SupportsIndex,
        nonlinearity: str = "tanh",
        bias: bool = True,
        bidirectional: bool = False,
        residual: bool = False,
        skip_kind: str = "none",
        skip_learned: bool = False,
        skip_lag: typing.SupportsInt | typing.SupportsIndex = 0,
        skip_value: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        place: typing.SupportsInt | typing.SupportsIndex = 0,
        zoneout: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        zoneout_cell: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        recurrent_dropout: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        step: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        diffusion: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        initial_state: str = "zeros",
        static_size: typing.SupportsInt | typing.SupportsIndex = 0,
        cell_options: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex] = [],
    ) -> None: ...

class Transform:
    """
    What acts on rows between layers.
    """
    def __init__(
        self,
        *,
        kind: str,
        before: typing.SupportsInt | typing.SupportsIndex,
        place: typing.SupportsInt | typing.SupportsIndex,
        affine: bool = False,
        bias: bool = False,
        eps: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        p: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        inputs: typing.SupportsInt | typing.SupportsIndex = 0,
        outputs: typing.SupportsInt | typing.SupportsIndex = 0,
        function: str = "relu",
        taps: typing.SupportsInt | typing.SupportsIndex = 1,
        dilation: typing.SupportsInt | typing.SupportsIndex = 1,
        groups: typing.SupportsInt | typing.SupportsIndex = 1,
        reduction: str = "none",
        inside: bool = False,
        stride: typing.SupportsInt | typing.SupportsIndex = 1,
        left: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None: ...

class Net:
    """
    A stack as the core sees it; made by gradcore from a Stack and a dtype.
    """
    def __init__(
        self,
        *,
        dtype: str,
        embedding_rows: typing.SupportsInt | typing.SupportsIndex,
        embedding_dim: typing.SupportsInt | typing.SupportsIndex,
        layers: collections.abc.Sequence[Layer],
        head_outputs: typing.SupportsInt | typing.SupportsIndex,
        head_bias: bool,
        transforms: collections.abc.Sequence[Transform] = [],
        head_unbiased: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None: ...
    def direction_steps(
        self,
        direction: typing.SupportsInt | typing.SupportsIndex,
        steps: typing.SupportsInt | typing.SupportsIndex,
    ) -> int: ...
    def part_steps(
        self,
        part: typing.SupportsInt | typing.SupportsIndex,
        steps: typing.SupportsInt | typing.SupportsIndex,
    ) -> int: ...
    def state_size(self, batch: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def words(self) -> list[int]:
        """
        The description as numbers, for python/xla/description.h.
        """
    @property
    def n_directions(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def n_parts(self) -> int: ...
    @property
    def n_states(self) -> int: ...

class Report:
    """
    What a run says about itself.
    """
    @property
    def arena_bytes(self) -> int: ...
    @property
    def grads_exponent(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def loss_weight(self) -> float: ...
    @property
    def losses(self) -> list[tuple[float, float]]: ...
    @property
    def threads(self) -> int: ...

class Call:
    """
    One call of the engine: describe the loss, then bind arrays, then plan and run.
    """
    def __init__(
        self,
        net: Net,
        *,
        steps: typing.SupportsInt | typing.SupportsIndex,
        batch: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def add_loss(
        self,
        kind: str,
        *,
        name: str,
        begin: typing.SupportsInt | typing.SupportsIndex,
        outputs: typing.SupportsInt | typing.SupportsIndex,
        scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
        last: bool = False,
        sum: bool = False,
        ignore_index: typing.SupportsInt | typing.SupportsIndex = 0,
        ignore_nan: bool = False,
        delta: typing.SupportsFloat | typing.SupportsIndex = 1.0,
        quantiles: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex] = [],
        full: bool = False,
    ) -> None: ...
    def begin(self) -> Report: ...
    def bind(self, **kwargs: typing.Any) -> None: ...
    def bind_loss(
        self, index: typing.SupportsInt | typing.SupportsIndex, **kwargs: typing.Any
    ) -> None: ...
    def bytes(self) -> int: ...
    def cotangents(
        self,
        count: typing.SupportsInt | typing.SupportsIndex,
        *,
        final_exponent: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None: ...
    def execution(
        self,
        *,
        threads: typing.SupportsInt | typing.SupportsIndex = 0,
        exact_threads: bool = False,
        scaling: bool = True,
        progress: typing.Any = None,
    ) -> None: ...
    def expect(
        self,
        names: collections.abc.Sequence[str],
        token_bytes: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None: ...
    def finish(self, d_outputs: numpy.ndarray) -> Report: ...
    def hidden(self, direction: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def loss(
        self,
        kind: str,
        *,
        last: bool = False,
        sum: bool = False,
        ignore_index: typing.SupportsInt | typing.SupportsIndex = 0,
        ignore_nan: bool = False,
        delta: typing.SupportsFloat | typing.SupportsIndex = 1.0,
        quantiles: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex] = [],
        full: bool = False,
        function: typing.Any = None,
    ) -> None: ...
    def mode(
        self,
        train: bool,
        *,
        seed: typing.SupportsInt | typing.SupportsIndex = 0,
        step: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None: ...
    def plan(
        self,
        ops: numpy.ndarray,
        *,
        segment_steps: typing.SupportsInt | typing.SupportsIndex,
        slots: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def run(self) -> Report: ...
    def tangents(
        self, count: typing.SupportsInt | typing.SupportsIndex, *, curvature: str = "none"
    ) -> None: ...

class GroupNorms:
    """
    Norms of the parameters of one group in the last update.
    """
    @property
    def clipped(self) -> int: ...
    @property
    def clipped_norm_log10(self) -> float: ...
    @property
    def norm_log10(self) -> float: ...
    @property
    def param_norm(self) -> float: ...
    @property
    def update_norm(self) -> float: ...

class Update:
    """
    An optimizer's update of one flat buffer, with its options and what the last one did.
    """
    def __init__(
        self,
        optimizer: str,
        params: numpy.ndarray,
        *,
        segments: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        groups: typing.SupportsInt | typing.SupportsIndex,
        first_moment: typing.Any = None,
        second_moment: typing.Any = None,
        velocity: typing.Any = None,
    ) -> None: ...
    def run(
        self,
        grads: numpy.ndarray,
        *,
        exponent: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        threads: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> bool: ...
    def set_clip(
        self,
        name: str,
        *,
        limit: typing.SupportsFloat | typing.SupportsIndex,
        exponent: typing.SupportsInt | typing.SupportsIndex,
        eps: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    @property
    def alpha(self) -> float: ...
    @alpha.setter
    def alpha(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def beta1(self) -> float: ...
    @beta1.setter
    def beta1(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def beta2(self) -> float: ...
    @beta2.setter
    def beta2(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def centered(self) -> int: ...
    @centered.setter
    def centered(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def clip_scale(self) -> float: ...
    @property
    def dampening(self) -> float: ...
    @dampening.setter
    def dampening(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def eps(self) -> float: ...
    @eps.setter
    def eps(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def groups(self) -> list[GroupNorms]: ...
    @property
    def lr(self) -> float: ...
    @lr.setter
    def lr(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def lr_decay(self) -> float: ...
    @lr_decay.setter
    def lr_decay(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def momentum(self) -> float: ...
    @momentum.setter
    def momentum(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def nesterov(self) -> int: ...
    @nesterov.setter
    def nesterov(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def segments_clipped(self) -> list[int]: ...
    @property
    def total(self) -> GroupNorms: ...
    @property
    def where(self) -> int: ...

def block_steps() -> int: ...
def cell_facts(registered: bool = False) -> list[CellFacts]:
    """
    Facts of the built-in cells, or of the registered ones, in the order of their numbers.
    """

def cell_runs(cell: str, dtype: str) -> bool:
    """
    Whether a cell has kernels of this dtype for the instruction-set level in use.
    """

def compile_flags() -> str:
    """
    Flags of the kernels, without the -march of a level.
    """

def compiler() -> str: ...
def ctc_bytes(
    steps: typing.SupportsInt | typing.SupportsIndex,
    label_counts: numpy.ndarray,
    *,
    classes: typing.SupportsInt | typing.SupportsIndex,
    gradient: bool,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> int: ...
def ctc_decode(
    outputs: numpy.ndarray,
    lengths: typing.Any,
    *,
    blank: typing.SupportsInt | typing.SupportsIndex,
    beam: typing.SupportsInt | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex = 0,
    progress: typing.Any = None,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.float64],
]:
    """
    Labels [B, T], their counts [B] and scores [B].
    """

def ctc_loss(
    outputs: numpy.ndarray,
    lengths: typing.Any,
    labels: numpy.ndarray,
    label_counts: numpy.ndarray,
    *,
    blank: typing.SupportsInt | typing.SupportsIndex,
    factors: typing.Any = None,
    gradient: typing.Any = None,
    threads: typing.SupportsInt | typing.SupportsIndex = 0,
    progress: typing.Any = None,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    Losses [B] of CTC; the gradient is written to the array `gradient`.
    """

def default_threads() -> int: ...
def empty(
    shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    dtype: numpy.dtype[typing.Any],
) -> numpy.ndarray: ...
def force_isa(level: str | None) -> None:
    """
    Test hook: use exactly this level from now on; None undoes it.
    """

def foreign_function(path: str, name: str) -> typing_extensions.CapsuleType:
    """
    The address of a function of a library, as a capsule.
    """

def isa_available() -> list[str]:
    """
    Instruction-set levels that are compiled in and that this CPU has.
    """

def isa_in_use() -> str: ...
def load_cell(path: str) -> str:
    """
    Loads the plug-in of a cell, a library, and returns the cell's name.
    """

def measure_flops(
    dtype: str,
    *,
    threads: typing.SupportsInt | typing.SupportsIndex,
    repeats: typing.SupportsInt | typing.SupportsIndex,
    seconds: typing.SupportsFloat | typing.SupportsIndex,
) -> float:
    """
    Flops per second of multiply-adds between registers: the best repetition.
    """

def measure_reads(
    bytes: typing.SupportsInt | typing.SupportsIndex,
    *,
    threads: typing.SupportsInt | typing.SupportsIndex,
    repeats: typing.SupportsInt | typing.SupportsIndex,
    seconds: typing.SupportsFloat | typing.SupportsIndex,
) -> float:
    """
    Bytes per second of reads from a buffer per thread: the best repetition.
    """

def openmp_runtime() -> str:
    """
    Path of the loaded OpenMP runtime, '' if unknown.
    """

def release_memory() -> None: ...
def spectral_norms(
    matrices: numpy.ndarray,
    out: collections.abc.Mapping[str, numpy.ndarray],
    *,
    start_left: typing.Any,
    start_right: typing.Any,
    tolerance: typing.SupportsFloat | typing.SupportsIndex,
    max_steps: typing.SupportsInt | typing.SupportsIndex,
    seed: typing.SupportsInt | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
    progress: typing.Any,
) -> None:
    """
    Largest singular values of a stack of matrices, into the arrays of `out`.
    """

def version() -> str: ...

FROM_PREVIOUS: int = -2
FROM_START: int = -1
OP_BACKWARD: int = 2
OP_COTANGENT: int = 4
OP_EMIT: int = 3
OP_FORWARD: int = 0
OP_TAPE: int = 1
TO_NOWHERE: int = -1
