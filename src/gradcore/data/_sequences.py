"""Sequences: a source for many sequences of different lengths, batched by similar length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import choice, flag, float_dtype, integer, positive_int
from ..errors import ArgumentError, DTypeError, ShapeError
from ._arrays import (
    array_of,
    cast,
    check_kind,
    is_array,
    loaded,
    not_empty,
    table_of,
    trailing,
)
from ._batch import Batch
from ._contents import fingerprint
from ._source import Source, checksum

__all__ = ["Sequences"]

# Sequences are sorted by length within pools of so many batches. Larger pools would need less
# padding, but would put the same sequences together in every pass.
POOL_BATCHES = 50

Step = Literal["all", "last"]


class Sequences(Source):
    """Batches of whole sequences, padded to the longest of each batch.

    x: a list of N arrays, each (T_i, I) floats, or (T_i,) integer tokens or floats of one feature;
    or one array with time first, (T, N, I) or (T, N), with lengths (N,) if some sequences are
    shorter than T. Memory maps, frames, and arrays of h5py, zarr and xarray are read one batch at a
    time. y: targets laid out like x, (T_i,) or
    (T_i, O); with step="last" one target per sequence, (N,) or (N, O), for losses with step="last"
    and for nets with a Pool. For a net with Heads y is a dict of these by head, and step and weight
    may be dicts as well.
    weight: one weight per sequence, (N,), or one per step, laid out like x. static: what does not
    change with time, (N, S), an array or a frame with a row for each sequence.
    dtype: the dtype that floats of x, y, weight and static have in a batch; pass that of the
    parameters.

    shuffle: take the sequences in a new order in every pass, which depends on the seed and the
    number of the pass alone. bucket: put sequences of similar length into a batch: they are sorted
    by length within pools of 50 batches, and then the batches are shuffled. It has an effect only
    with shuffle. drop_last: leave out the last batch of a pass if it is incomplete. output_lengths:
    net.output_lengths of a net whose layers shorten time; y and weight then have that many steps of
    each sequence.
    Raises ArgumentError, ShapeError or DTypeError naming the sequence.
    Reference: Khomenko et al. 2016 for bucketing.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        weight: Any = None,
        static: Any = None,
        lengths: Any = None,
        step: Step | Mapping[str, Step] = "all",
        batch_size: int,
        shuffle: bool = True,
        bucket: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        dtype: DTypeLike = "float32",
        output_lengths: Callable[[NDArray[np.int64]], Any] | None = None,
    ) -> None:
        super().__init__()
        self._last = _last_steps(step, y)
        self._dtype = float_dtype("dtype", dtype)
        self._x = _Part.make("x", x, lengths)
        if self._x.integers and self._x.trailing:
            raise DTypeError(
                f"x must hold floats if it has columns; it holds {self._x.kind} with "
                f"{self._x.trailing} columns. If these are tokens, pass them without a column "
                f"axis; if they are features, pass x.astype({str(self._dtype)!r})."
            )
        # The steps of y and weight.
        self._outputs = self._x.lengths
        if output_lengths is not None:
            self._outputs = np.asarray(output_lengths(self._x.lengths), np.int64)
        # By head; "" stands for targets and weights that are not named.
        self._y = {
            name: self._targets(_told("y", name), own, self._last[name])
            for name, own in _by_name("y", y, self._last).items()
        }
        self._weight = {
            name: self._weights(_told("weight", name), own, self._last[name])
            for name, own in _each_weight(weight, self._last).items()
            if own is not None
        }
        self._static = None if static is None else table_of(static, self._x.count, "sequence")
        self.batch_size = positive_int("batch_size", batch_size)
        self.shuffle, self.bucket = flag("shuffle", shuffle), flag("bucket", bucket)
        self.seed, self.drop_last = integer("seed", seed), flag("drop_last", drop_last)
        if self.seed < 0:
            raise ArgumentError(f"seed must be at least 0; got {self.seed}.")
        if len(self) == 0:
            raise ArgumentError(
                f"drop_last leaves no batch: there are {self._x.count} sequences and a batch needs "
                f"{self.batch_size}. Pass a smaller batch_size or drop_last=False."
            )
        self._planned: tuple[int, list[NDArray[np.int64]]] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of steps of every sequence, (N,) int64."""
        return self._x.lengths

    @property
    def float_dtype(self) -> np.dtype[Any] | None:
        targets = (y.kind if isinstance(y, _Part) else y.dtype for y in self._y.values())
        some = not self._x.integers or bool(self._weight) or any(y.kind == "f" for y in targets)
        some = some or self._static is not None
        return self._dtype if some else None

    def __len__(self) -> int:
        whole, rest = divmod(self._x.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def batch(self, epoch: int, index: int) -> Batch:
        rows = self.rows(epoch)[index]
        lengths = self._x.lengths[rows]
        steps = int(lengths.max())
        x = self._x.batch(rows, steps, self._dtype)
        if x.ndim == 2 and not self._x.integers:
            x = x[:, :, None]
        y = {name: self._batch_targets(name, rows) for name in self._y}
        weight = {name: self._batch_weight(name, rows) for name in self._weight}
        ragged = bool((lengths != steps).any())
        return Batch(
            x,
            y.get("", y),
            lengths=lengths if ragged else None,
            weight=weight.get("", weight) if weight else None,
            static=None if self._static is None else cast(self._static[rows], self._dtype),
        )

    def rows(self, epoch: int) -> list[NDArray[np.int64]]:
        """The numbers of the sequences in each batch of pass `epoch`, one array per batch."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self._plan(epoch)
        return self._planned[1]

    def describe(self) -> dict[str, Any]:
        return {
            "source": "Sequences",
            "sequences": self._x.count,
            "lengths_crc32": checksum(self._x.lengths),
            "x": f"{self._x.kind} {self._x.trailing}",
            "step": _step_names(self._last),
            "weighted": bool(self._weight),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "bucket": self.bucket,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "dtype": str(self._dtype),
            **({} if self._static is None else {"static": self._static.shape[1]}),
        }

    def contents(self) -> dict[str, str]:
        found = {}
        parts: dict[str, _Part | NDArray[Any]] = {"x": self._x}
        parts |= {_told("y", name): part for name, part in self._y.items()}
        parts |= {_told("weight", name): part for name, part in self._weight.items()}
        parts |= {} if self._static is None else {"static": self._static}
        for name, part in parts.items():
            found[name] = fingerprint(part.arrays if isinstance(part, _Part) else part)
        return found

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        count, size = self._x.count, self.batch_size
        order = np.arange(count)
        random = np.random.default_rng([self.seed, epoch])
        if self.shuffle:
            order = random.permutation(count)
            if self.bucket:
                pool = POOL_BATCHES * size
                for start in range(0, count, pool):
                    part = order[start : start + pool]
                    by_length = np.argsort(self._x.lengths[part], kind="stable")
                    order[start : start + pool] = part[by_length]
        batches = [order[i : i + size] for i in range(0, count, size)][: len(self)]
        if self.shuffle and self.bucket:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches

    def _targets(self, told: str, y: Any, last: bool) -> _Part | NDArray[Any]:
        count = self._x.count
        if not last:
            if _ndim(y) == 1 if is_array(y) else _all_scalars(y):
                raise ShapeError(
                    f"{told} must have one value per step, and it has one per sequence. With a "
                    "loss that looks at the last step (step='last'), or a net with a Pool, pass "
                    "step='last' here as well."
                )
            part = _Part.make(told, y, self._outputs if is_array(y) else None)
            self._same_layout(told, part, 'For one target per sequence, pass step="last".')
            return part
        array = loaded(told, y)
        if array.ndim not in (1, 2) or array.shape[0] != count:
            raise ShapeError(
                f"{told} must have one target per sequence with step='last', shape ({count},) or "
                f"({count}, O); got {array.shape}."
            )
        return array

    def _weights(self, told: str, weight: Any, last: bool) -> _Part | NDArray[Any]:
        if _ndim(weight) == 1 if is_array(weight) else _all_scalars(weight):
            array = loaded(told, weight).astype(self._dtype)
            if array.shape != (self._x.count,):
                raise ShapeError(
                    f"{told} must have one value per sequence, {self._x.count} of them; got "
                    f"{array.shape[0]}."
                )
            _check_weights(array)
            return array
        if last:
            raise ShapeError(f"{told} must have one value per sequence with step='last'.")
        part = _Part.make(told, weight, self._outputs if is_array(weight) else None)
        if part.trailing:
            raise ShapeError(
                f"{told} must have one value per step; it has {part.trailing} values per step."
            )
        self._same_layout(told, part, "For one weight per sequence, pass a 1-D array.")
        return part

    def _same_layout(self, name: str, part: _Part, hint: str) -> None:
        if part.count != self._x.count:
            raise ShapeError(
                f"{name} must have as many sequences as x, {self._x.count}; it has {part.count}. "
                f"{hint}"
            )
        wrong = np.flatnonzero(part.lengths != self._outputs)
        if not wrong.size:
            return
        i = wrong[0]
        steps, outputs = self._x.lengths[i], self._outputs[i]
        made = f", of which output_lengths makes {outputs}," if steps != outputs else ""
        if self._outputs is self._x.lengths:
            hint += " If layers of the net shorten time, pass output_lengths=net.output_lengths."
        raise ShapeError(
            f"sequence {i} has {steps} steps in x{made} and {part.lengths[i]} in {name}. {hint}"
        )

    def _batch_targets(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        own, last = self._y[name], self._last[name]
        if isinstance(own, _Part):
            y = own.batch(rows, int(self._outputs[rows].max()), self._dtype)
        else:
            y = cast(own[rows], self._dtype)
        return y[..., None] if y.dtype.kind == "f" and y.ndim == (1 if last else 2) else y

    def _batch_weight(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        own, steps = self._weight[name], int(self._outputs[rows].max())
        if isinstance(own, _Part):
            return own.batch(rows, steps, self._dtype).astype(self._dtype, copy=False)
        each = own[rows]
        return each if self._last[name] else np.repeat(each[None, :], steps, axis=0)


class _Part:
    """x, y or weight of all sequences: a list of arrays, or one array with time first."""

    def __init__(
        self, name: str, arrays: list[NDArray[Any]] | NDArray[Any], lengths: NDArray[np.int64]
    ) -> None:
        self.name, self.arrays, self.lengths = name, arrays, lengths
        self.count = len(lengths)
        if isinstance(arrays, list):
            self.kind, self.trailing = arrays[0].dtype, arrays[0].shape[1:]
        else:
            self.kind, self.trailing = arrays.dtype, arrays.shape[2:]
        self.integers = self.kind.kind != "f"

    @staticmethod
    def make(name: str, value: Any, lengths: Any) -> _Part:
        if is_array(value):
            return _Part._of_array(name, array_of(name, value), lengths)
        if isinstance(value, (str, bytes, dict)) or not isinstance(value, Sequence):
            raise DTypeError(
                f"{name} must be a list of arrays, one per sequence, or one array with time "
                f"first; got {type(value).__name__}."
            )
        if lengths is not None:
            raise ArgumentError(
                f"lengths must be None if {name} is a list, whose arrays have lengths of their own."
            )
        not_empty(len(value), name)
        arrays = [array_of(f"{name}[{i}]", item) for i, item in enumerate(value)]
        for i, array in enumerate(arrays):
            if array.ndim not in (1, 2):
                raise ShapeError(
                    f"{name}[{i}] must have shape (T,) or (T, columns), time first; got "
                    f"{array.shape}."
                )
            if len(array) == 0:
                raise ShapeError(
                    f"{name}[{i}] has no steps; leave empty sequences out of x, y and weight."
                )
            trailing(name, arrays[0].shape[1:], array.shape[1:], f"{name}[{i}]")
            check_kind(name, arrays[0], array, f"{name}[{i}]")
        return _Part(name, arrays, np.array([len(a) for a in arrays], np.int64))

    @staticmethod
    def _of_array(name: str, array: NDArray[Any], lengths: Any) -> _Part:
        if array.ndim not in (2, 3):
            raise ShapeError(
                f"{name} must have shape (T, N) or (T, N, columns), time first, if it is one "
                f"array; got {array.shape}. Otherwise pass a list of arrays, one per sequence."
            )
        steps, count = array.shape[:2]
        not_empty(steps * count, name)
        if lengths is None:
            return _Part(name, array, np.full(count, steps, np.int64))
        given = loaded("lengths", lengths)
        if given.shape != (count,) or given.dtype.kind not in "iu":
            swapped = given.shape == array.shape[:1]
            hint = f" Time comes first: pass {name}.swapaxes(0, 1)." * swapped
            raise ShapeError(
                f"lengths must be one integer per sequence, and {name} has {count} sequences; got "
                f"{given.dtype} of shape {given.shape}.{hint}"
            )
        wrong = np.flatnonzero((given < 1) | (given > steps))
        if wrong.size:
            raise ArgumentError(
                f"lengths must be in 1..T = 1..{steps}, because {name} has {steps} steps; the "
                f"length of sequence {wrong[0]} is {given[wrong[0]]}."
            )
        return _Part(name, array, given.astype(np.int64))

    def batch(self, rows: NDArray[np.int64], steps: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The sequences numbered `rows` as (steps, B, ...), with zeros after each one's end."""
        lengths = self.lengths[rows]
        if not isinstance(self.arrays, list):
            taken = cast(np.asarray(self.arrays[:steps, rows]), dtype)
            taken[np.arange(steps)[:, None] >= lengths[None, :]] = 0
            return taken
        padded = np.zeros((steps, len(rows), *self.trailing), self.kind)
        for column, row in enumerate(rows):
            padded[: lengths[column], column] = self.arrays[row]
        return cast(padded, dtype)


def _told(what: str, name: str) -> str:
    """What messages call the targets or weights of a head."""
    return f"{what}[{name!r}]" if name else what


def _by_name(what: str, given: Any, heads: dict[str, bool]) -> dict[str, Any]:
    """Targets or weights by head; raises ArgumentError for a head without targets."""
    if not isinstance(given, Mapping):
        return {"": given}
    if unknown := [name for name in given if name not in heads]:
        raise ArgumentError(
            f"{what} must name heads that have targets, {', '.join(heads)}; got {unknown[0]!r}."
        )
    return dict(given)


def _each_weight(weight: Any, heads: dict[str, bool]) -> dict[str, Any]:
    """Weights by head, of which an array is that of all."""
    by_name = _by_name("weight", weight, heads)
    return dict.fromkeys(heads, by_name[""]) if "" in by_name else by_name


def _last_steps(step: Any, y: Any) -> dict[str, bool]:
    """Whether the targets of each head are one per sequence; of all of them under ""."""
    names = list(y) if isinstance(y, Mapping) else []
    if isinstance(y, Mapping) and not all(isinstance(name, str) and name for name in names):
        raise ArgumentError(f"y must be a dict by the names of heads; got {names!r}.")
    if isinstance(y, Mapping) and not names:
        raise ArgumentError("y must have the targets of a head, one or more.")
    steps = _by_name("step", step, dict.fromkeys(names, False))
    common = choice("step", steps.pop("", "all"), get_args(Step))
    for name, own in steps.items():
        choice(f"step[{name!r}]", own, get_args(Step))
    found = {name: steps.get(name, common) == "last" for name in names}
    return found or {"": common == "last"}


def _step_names(last: dict[str, bool]) -> Any:
    """As JSON values: "all" or "last", by head where there are several."""
    names = {name: "last" if own else "all" for name, own in last.items()}
    return names.get("", names)


def _all_scalars(value: Any) -> bool:
    return isinstance(value, Sequence) and all(_ndim(item) == 0 for item in value)


def _ndim(value: Any) -> int:
    exported = is_array(value) and not isinstance(value, np.ndarray)
    return array_of("an array", value).ndim if exported else np.ndim(value)


def _check_weights(array: NDArray[Any]) -> None:
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise ArgumentError(
            f"weight must be finite; that of sequence {wrong[0]} is {array[wrong[0]]}. Use 0 to "
            "leave a sequence out."
        )
