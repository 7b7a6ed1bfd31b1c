"""Sequences: a source for many sequences of different lengths, batched by similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import choice, flag, float_dtype, integer, positive_int
from ..errors import ArgumentError, DTypeError, ShapeError
from ._arrays import array_of, cast, check_kind, is_array, loaded, not_empty, trailing
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
    (T_i, O); with step="last" one target per sequence, (N,) or (N, O), for losses with step="last".
    weight: one weight per sequence, (N,), or one per step, laid out like x.
    dtype: the dtype that floats of x, y and weight have in a batch; pass that of the parameters.

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
        lengths: Any = None,
        step: Step = "all",
        batch_size: int,
        shuffle: bool = True,
        bucket: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        dtype: DTypeLike = "float32",
        output_lengths: Callable[[NDArray[np.int64]], Any] | None = None,
    ) -> None:
        super().__init__()
        self._last = choice("step", step, get_args(Step)) == "last"
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
        self._y = self._targets(y)
        self._weight = self._weights(weight)
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
        y = self._y.kind if isinstance(self._y, _Part) else self._y.dtype
        some = not self._x.integers or y.kind == "f" or self._weight is not None
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
        if isinstance(self._y, _Part):
            y = self._y.batch(rows, int(self._outputs[rows].max()), self._dtype)
        else:
            y = cast(self._y[rows], self._dtype)
        if y.dtype.kind == "f" and y.ndim == (1 if self._last else 2):
            y = y[..., None]
        ragged = bool((lengths != steps).any())
        return Batch(x, y, lengths=lengths if ragged else None, weight=self._batch_weight(rows))

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
            "step": "last" if self._last else "all",
            "weighted": self._weight is not None,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "bucket": self.bucket,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "dtype": str(self._dtype),
        }

    def contents(self) -> dict[str, str]:
        found = {}
        for name, part in (("x", self._x), ("y", self._y), ("weight", self._weight)):
            if part is not None:
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

    def _targets(self, y: Any) -> _Part | NDArray[Any]:
        count = self._x.count
        if not self._last:
            if _ndim(y) == 1 if is_array(y) else _all_scalars(y):
                raise ShapeError(
                    "y must have one value per step, and it has one per sequence. With a loss that "
                    "looks at the last step (step='last'), pass step='last' here as well."
                )
            part = _Part.make("y", y, self._outputs if is_array(y) else None)
            self._same_layout("y", part, 'For one target per sequence, pass step="last".')
            return part
        array = loaded("y", y)
        if array.ndim not in (1, 2) or array.shape[0] != count:
            raise ShapeError(
                f"y must have one target per sequence with step='last', shape ({count},) or "
                f"({count}, O); got {array.shape}."
            )
        return array

    def _weights(self, weight: Any) -> _Part | NDArray[Any] | None:
        if weight is None:
            return None
        if _ndim(weight) == 1 if is_array(weight) else _all_scalars(weight):
            array = loaded("weight", weight).astype(self._dtype)
            if array.shape != (self._x.count,):
                raise ShapeError(
                    f"weight must have one value per sequence, {self._x.count} of them; got "
                    f"{array.shape[0]}."
                )
            _check_weights(array)
            return array
        if self._last:
            raise ShapeError("weight must have one value per sequence with step='last'.")
        part = _Part.make("weight", weight, self._outputs if is_array(weight) else None)
        if part.trailing:
            raise ShapeError(
                f"weight must have one value per step; it has {part.trailing} values per step."
            )
        self._same_layout("weight", part, "For one weight per sequence, pass a 1-D array.")
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

    def _batch_weight(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        steps = int(self._outputs[rows].max())
        if self._weight is None:
            return None
        if isinstance(self._weight, _Part):
            return self._weight.batch(rows, steps, self._dtype).astype(self._dtype, copy=False)
        each = self._weight[rows]
        return each if self._last else np.repeat(each[None, :], steps, axis=0)


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
