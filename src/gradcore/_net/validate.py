"""Checks of the arrays that users pass: dtype, shape, memory layout, and ranges of short arrays.

Values are never cast between float dtypes. A copy is made only if the layout is unsuitable (not
C-contiguous or not aligned), or if integers become int64 (targets, lengths). Values inside large
arrays are checked by the core while it runs, which names layer, step and sequence: NaN and infinity
in x or params (NonFiniteError), and tokens and classes out of range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._base.checks import flag, integer, positive_int
from ..errors import ArgumentError, DTypeError, ShapeError
from .layers import RowLayer
from .stack import Grads, Params, Stack
from .state import LayerState, flatten

INTEGERS = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))
WRT = ("params", "x", "state", "static")


@dataclass(frozen=True, eq=False)
class Inputs:
    """The checked inputs of a call: T, B, and arrays by the names that the core knows them by.

    output_steps, output_lengths: T and lengths of outputs, targets and weights, which a layer that
    shortens time makes fewer.

    Arrays keep the layout that the caller gave them until `laid_out`. copied: the bytes of those
    that are, or will then be, copies of what the caller passed.
    """

    steps: int
    batch: int
    output_steps: int
    arrays: dict[str, NDArray[Any] | None]
    output_lengths: NDArray[np.int64] | None = None
    copied: int = 0

    @property
    def token_bytes(self) -> int:
        """The bytes of one token, 0 for float input."""
        tokens = self.arrays["tokens"]
        return tokens.itemsize if tokens is not None else 0

    def beside(self, arrays: dict[str, NDArray[Any] | None], *given: object) -> Inputs:
        """The same inputs with further arrays, which were made from what the caller gave."""
        copied = self.copied + copied_bytes(arrays, given)
        return replace(self, arrays={**self.arrays, **arrays}, copied=copied)


class Mode(NamedTuple):
    """Whether a call is training, and the seed and step that random masks depend on."""

    train: bool
    seed: int
    step: int


def model(net: object, params: object) -> None:
    """Checks that net is a Stack and params were made for it."""
    if not isinstance(net, Stack):
        raise DTypeError(f"net must be a gradcore.Stack; got {type(net).__name__}.")
    if not isinstance(params, Params):
        raise DTypeError(
            "params must be gradcore.Params, such as net.init() makes; got "
            f"{type(params).__name__}."
        )
    if params.net != net:
        raise ShapeError(
            f"params must belong to the net of the call, {net!r}; they were made for "
            f"{params.net!r}."
        )


def recurrent_index(net: Stack, layer: object) -> int:
    """The number, from 0, of the recurrent layer `layer`, which may count from the end (-1)."""
    which, count = integer("layer", layer), len(net.recurrent)
    if not -count <= which < count:
        raise ArgumentError(
            f"layer must be one of the net's {count} recurrent layers; got {which}."
        )
    return which % count


def inputs(
    net: Stack,
    dtype: np.dtype[Any],
    x: object,
    lengths: object = None,
    reset: object = None,
    state: Sequence[LayerState] | None = None,
    static: object = None,
) -> Inputs:
    """Checks x, its masks, the initial state and static; returns them as the core takes them."""
    array = as_array("x", x, copy=False)
    tokens = array.dtype.kind in "iu"
    array = _tokens(net, array) if tokens else _floats(net, dtype, array)
    steps, batch = array.shape[:2]
    if reset is not None and net.starts_elsewhere:
        raise ArgumentError(
            "reset must be None, because it sets the state to zero, and the net has a layer with "
            'initial_state="learned" or "static". Pass what lies between two resets as sequences '
            "of their own."
        )
    if reset is not None and net.pool is not None:
        raise ArgumentError(
            "reset must be None for a net with a Pool: a sequence that is cut has no single row. "
            "Pass each piece as a sequence of its own, with lengths."
        )
    arrays = {
        "x": None if tokens else array,
        "tokens": array if tokens else None,
        "lengths": lengths_of(lengths, steps, batch),
        "reset": _reset(reset, steps, batch),
        "state": None if state is None else flatten(net, batch, dtype, state),
        "static": static_of(net, static, batch, dtype),
    }
    outputs, ends = output_steps(net, steps), arrays["lengths"]
    shortened = None if ends is None else net.output_lengths(ends) if net.borders else ends
    copied = copied_bytes(arrays, (x, lengths, reset, static))
    return Inputs(steps, batch, outputs, arrays, shortened, copied)


def output_steps(net: Stack, steps: int) -> int:
    """The steps of the outputs; raises ShapeError if there are none."""
    outputs = net.output_steps(steps)
    if outputs < 1:
        short = next(p for p in range(len(net.layers)) if net.steps_at(p + 1, steps) < 1)
        raise ShapeError(
            f"x must have more steps: of T={steps}, {net.steps_at(short, steps)} come to layer "
            f"{short} ({type(net.layers[short]).__name__}), whose windows are longer. "
            'padding="same" takes shorter sequences, too.'
        )
    return outputs


def steps_of_outputs(net: Stack, steps: int) -> str:
    """What messages add about shapes of outputs, targets and weights in nets that shorten time."""
    if net.pool is not None:
        return "; the net has a Pool, and with it one output per sequence"
    if not any(net.steps_at(p + 1, steps) != steps for p in net.borders):
        return ""
    names = " and ".join(type(net.layers[p]).__name__ for p in net.borders)
    return (
        f"; x has T={steps} steps, of which {names} make {net.output_steps(steps)} "
        "(net.output_steps)"
    )


def static_of(net: Stack, static: object, batch: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Checks the inputs that do not change with time; the core checks that they are finite."""
    size = net.static_size
    if static is None and size is None:
        return None
    if size is None:
        raise ArgumentError(
            "static must be None, because no layer of the net reads it. Put "
            "StaticInput(static_size, features) into the net, or give a recurrent layer "
            'initial_state="static".'
        )
    if static is None:
        raise ArgumentError(
            f"static must be given, because the net reads {size} static inputs of each sequence: "
            f"an array of shape ({batch}, {size})."
        )
    return floats("static", static, (batch, size), dtype, "one row per sequence")


def floats(
    name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any], why: str = "as outputs"
) -> NDArray[Any]:
    """Checks an array of floats; `why` explains in messages where the shape comes from.

    The array keeps its layout until `laid_out`.
    """
    array = as_array(name, value, copy=False)
    if array.dtype != dtype:
        raise DTypeError(
            f"{name} must have dtype {dtype}, that of the parameters; got {array.dtype}. "
            f"Convert it with .astype({str(dtype)!r})."
        )
    return _shaped(name, array, shape, why)


def classes(y: object, shape: tuple[int, ...], why: str) -> NDArray[Any]:
    """Checks an array of class indices; `laid_out` makes int64 of it."""
    array = as_array("y", y, copy=False)
    if array.dtype not in INTEGERS:
        raise DTypeError(
            "y must hold class indices as int64, int32 or uint8 for cross-entropy; got "
            f"{array.dtype}."
        )
    return _shaped("y", array, shape, why)


def weights(
    weight: object, shape: tuple[int, ...], dtype: np.dtype[Any], signed: bool, note: str = ""
) -> NDArray[Any] | None:
    """Checks the weights of the loss terms; signed: whether they may be negative.

    note: what messages add about their shape.
    """
    if weight is None:
        return None
    array = floats("weight", weight, shape, dtype, f"one weight per loss term{note}")
    if not np.isfinite(array).all():
        raise ArgumentError(
            "weight must be finite; it holds NaN or infinity. Use 0 to leave a term out."
        )
    if not signed and (array < 0).any():
        raise ArgumentError(
            "weight must not be negative for a mean, which divides by the sum of the weights; "
            "use a loss with reduction='sum'."
        )
    return array


def wrt(names: object, tokens: bool, net: Stack) -> frozenset[str]:
    """Checks what gradients are wanted for; tokens: whether x holds integer tokens."""
    if isinstance(names, str) or not isinstance(names, (Sequence, frozenset, set)):
        raise DTypeError(f"wrt must be a tuple of names out of {WRT}; got {names!r}.")
    try:
        wanted = frozenset(names)
    except TypeError:
        raise DTypeError(f"wrt must be a list of names; got {names!r}.") from None
    if not wanted or not wanted <= set(WRT):
        raise ArgumentError(f"wrt must name one or more of {WRT}; got {names!r}.")
    if "x" in wanted and tokens:
        raise ArgumentError(
            "wrt must not name 'x' if x holds integer tokens, which have no gradient. 'params' "
            "gives the gradient of the embedding, or of weight_ih."
        )
    if "static" in wanted and net.static_size is None:
        raise ArgumentError("wrt must not name 'static', because no layer of the net reads it.")
    return wanted


def out(grads: object, params: Params) -> Grads | None:
    """Checks the Grads whose buffer the gradient is written to."""
    if grads is None:
        return None
    if not isinstance(grads, Grads):
        raise DTypeError(
            f"out must be the gradcore.Grads of an earlier call; got {type(grads).__name__}."
        )
    if grads.net != params.net or grads.dtype != params.dtype:
        raise ShapeError(
            f"out must be laid out like params, {params.dtype} for {params.net!r}; it is "
            f"{grads.dtype} for {grads.net!r}."
        )
    if not grads.flat.flags.carray:
        raise ArgumentError("out must be writeable; its buffer has been made read-only.")
    if np.shares_memory(grads.flat, params.flat):
        raise ArgumentError("out must not share memory with params; use another Grads.")
    return grads


def threads(count: int | None) -> int:
    """The thread count for the core, where 0 stands for its default."""
    # The core takes a 32-bit number, and uses at most as many threads as its largest team has.
    return 0 if count is None else min(positive_int("threads", count), 2**31 - 1)


def mode(net: Stack, train: object, seed: object) -> Mode:
    """Whether a call draws random masks, and the two numbers that they depend on."""
    training = flag("train", train)
    if seed is None:
        if training and net.is_random:
            raise ArgumentError(
                "seed must be given, because train=True and the net has random masks (Dropout, "
                "zoneout or recurrent_dropout). Pass seed=(seed, step) with the number of the "
                "training step, so that every step has different masks, or train=False."
            )
        return Mode(training, 0, 0)
    pair = seed if isinstance(seed, (tuple, list)) else (seed, 0)
    if len(pair) != 2:
        raise ArgumentError(f"seed must be an integer or (seed, step); got {seed!r}.")
    numbers = [integer(name, number) for name, number in zip(("seed", "step"), pair, strict=True)]
    for name, number in zip(("seed", "step of seed=(seed, step)"), numbers, strict=True):
        if not 0 <= number < 2**64:
            raise ArgumentError(f"{name} must be in 0..2**64-1; got {number}.")
    return Mode(training, *numbers)


def copied_bytes(arrays: Mapping[str, NDArray[Any] | None], given: Sequence[object]) -> int:
    """The bytes of those arrays that are copies of what the caller gave, or will be in laid_out."""
    copied = 0
    for name, array in arrays.items():
        if array is None:
            continue
        if not _as_core_reads(name, array):
            copied += array.size * _core_dtype(name, array).itemsize
        elif array.flags.owndata and not any(array is item for item in given):
            copied += array.nbytes
    return copied


def laid_out(name: str, array: NDArray[Any] | None) -> NDArray[Any] | None:
    """An array as the core reads it; a copy if its layout or its integer dtype are others.

    To be called after the plan, which has counted the copy in its budget.
    """
    if array is None or _as_core_reads(name, array):
        return array
    return np.require(array, _core_dtype(name, array), ["C", "A"])


def _core_dtype(name: str, array: NDArray[Any]) -> np.dtype[Any]:
    """Class indices are read as int64."""
    return np.dtype(np.int64) if name == "target" and array.dtype in INTEGERS else array.dtype


def _as_core_reads(name: str, array: NDArray[Any]) -> bool:
    flags = array.flags
    same = array.dtype == _core_dtype(name, array)
    return bool(flags.c_contiguous and flags.aligned and same)


def as_array(name: str, value: object, *, copy: bool = True) -> NDArray[Any]:
    """A NumPy array from an array, a DLPack exporter or a buffer.

    It is C-contiguous, by a copy if necessary; with copy=False it keeps its layout.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} must not be a masked array, because its mask would be lost. Pass a plain "
            "array."
        )
    if not isinstance(value, np.ndarray):
        value = _imported(name, value)
    if not value.dtype.isnative:
        raise DTypeError(
            f"{name} must be in the machine's byte order; got {value.dtype.str}. "
            "Convert it with .astype(x.dtype.newbyteorder('='))."
        )
    return np.require(value, requirements=["C", "A"]) if copy else value


def _imported(name: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DTypeError(
                f"{name} must be in CPU memory and free of automatic differentiation; NumPy "
                f"refused it: {error}. Pass x.detach().cpu() or a NumPy array."
            ) from error
    if hasattr(value, "__array__") or isinstance(value, (bytearray, memoryview)):
        return np.asarray(value)
    raise DTypeError(
        f"{name} must be a NumPy array or support DLPack; got {type(value).__name__}. "
        "Use numpy.asarray(value, dtype=...)."
    )


def _tokens(net: Stack, array: NDArray[Any]) -> NDArray[Any]:
    first = net.layers[0]
    wrapped = any(begin == 0 for begin, _ in net.residuals)
    if wrapped or (isinstance(first, RowLayer) and not first.takes_tokens):
        kind = "Residual" if wrapped else type(first).__name__
        raise DTypeError(
            f"x must be float, because the net starts with a {kind}; got integer "
            f"tokens of {array.dtype}. Put an Embedding before it."
        )
    if array.dtype not in INTEGERS:
        raise DTypeError(
            f"integer x must have dtype uint8, int32 or int64; got {array.dtype}. "
            "Convert it with .astype('int32')."
        )
    if array.ndim != 2:
        raise ShapeError(
            f"integer x must have shape (T, B), time first; got {array.shape}. "
            "Add a batch axis with x[:, None] if it is one sequence."
        )
    _not_empty(array)
    return array


def _floats(net: Stack, dtype: np.dtype[Any], array: NDArray[Any]) -> NDArray[Any]:
    if net.embedding is not None:
        raise DTypeError(
            f"x must hold integer tokens (uint8, int32, int64), because the net starts with an "
            f"Embedding; got {array.dtype}."
        )
    if array.dtype != dtype:
        raise DTypeError(
            f"x must have dtype {dtype}, that of the parameters, or hold integer tokens; got "
            f"{array.dtype}. Convert it with .astype({str(dtype)!r})."
        )
    if array.ndim != 3 or array.shape[2] != net.input_size:
        hint = " Add a batch axis with x[:, None] if it is one sequence." * (array.ndim == 2)
        raise ShapeError(
            f"x must have shape (T, B, {net.input_size}), time first; got {array.shape}.{hint}"
        )
    _not_empty(array)
    return array


def _not_empty(array: NDArray[Any]) -> None:
    steps, batch = array.shape[:2]
    if steps == 0 or batch == 0:
        raise ShapeError(
            f"x must have at least one step and one sequence; got T={steps}, B={batch}."
        )


def lengths_of(lengths: object, steps: int, batch: int) -> NDArray[Any] | None:
    """Checks lengths (B,) and returns them as int64."""
    if lengths is None:
        return None
    if isinstance(lengths, (list, tuple)):
        lengths = np.asarray(lengths)
    array = as_array("lengths", lengths)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"lengths must be integers; got {array.dtype}.")
    array = _shaped("lengths", array, (batch,), "one length per sequence")
    wrong = np.flatnonzero((array < 0) | (array > steps))
    if wrong.size:
        raise ArgumentError(
            f"lengths must be in 0..T = 0..{steps}; lengths[{wrong[0]}] is {array[wrong[0]]}."
        )
    return array.astype(np.int64, copy=False)


def _reset(reset: object, steps: int, batch: int) -> NDArray[Any] | None:
    if reset is None:
        return None
    array = as_array("reset", reset, copy=False)
    if array.dtype != np.bool_:
        raise DTypeError(f"reset must have dtype bool; got {array.dtype}.")
    return _shaped("reset", array, (steps, batch), "one flag per step and sequence")


def _shaped(name: str, array: NDArray[Any], shape: tuple[int, ...], why: str) -> NDArray[Any]:
    if array.shape != shape:
        transposed = len(shape) > 1 and array.T.shape == shape
        hint = " Time comes first: pass its transpose." if transposed else ""
        raise ShapeError(f"{name} must have shape {shape}, {why}; got {array.shape}.{hint}")
    return array
