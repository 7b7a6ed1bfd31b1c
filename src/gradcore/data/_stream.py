"""Stream: a source for one very long array, for truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import float_dtype, integer, positive_int
from .._base.named import each, flat
from ..errors import ArgumentError, DTypeError, ShapeError
from ._arrays import array_of, cast, is_array, not_empty, table_of
from ._batch import Batch
from ._contents import fingerprint
from ._maps import ReadPages
from ._source import Source

__all__ = ["Stream"]


class Stream(Source):
    """Windows over one long recording, with the state carried from one to the next: BPTT(k2; k1).

    x: (N, I) floats, (N,) integer tokens or (N,) floats of one feature: an array, a frame or series
    (pandas, polars, pyarrow, ...), a LazyFrame of polars, or an array of h5py, zarr or xarray. Of
    files one window is read at a time, and pages of memory maps are returned to the system after
    reading (except in mode "c"), so that a pass over 10^8 steps takes the memory of a few windows.
    y: one target per step, (N,) or (N, O); for a net with Heads a dict of these. weight: (N,)
    weights of the loss terms. reset: (N,) bool; True sets the state to zero before that step, for
    example where a new recording starts. static: what does not change with time, (S,) for all lanes
    or (batch_size, S).
    dtype: the dtype that floats have in a batch; pass that of the parameters.

    The N steps are cut into batch_size lanes: contiguous pieces whose lengths differ by at most one
    step; lane b is sequence b of every batch. Update n counts the loss of the steps
    [n*k1, (n+1)*k1) of each lane, and its gradient reaches back to step (n+1)*k1 - k2 (or to 0),
    where the state counts as constant. k2 must be at least k1; None means k2 = k1, which is
    ordinary truncated BPTT. That constant state is the one that the net had at this step when it
    read the window before. A pass starts from zeros; the first burn_in steps of each lane get
    weight 0 in the loss, because the state has seen too little by then. The last window of a pass
    may be shorter.
    Raises ArgumentError, ShapeError or DTypeError.
    Reference: Williams and Peng 1990, BPTT(h; h') with h = k2 and h' = k1.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int = 1,
        k1: int,
        k2: int | None = None,
        burn_in: int = 0,
        weight: Any = None,
        reset: Any = None,
        static: Any = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__()
        self._dtype = float_dtype("dtype", dtype)
        self._x = _long("x", x)
        if self._x.ndim == 2 and self._x.dtype.kind != "f":
            raise DTypeError(
                f"x must hold floats if it has columns; got {self._x.dtype} of shape "
                f"{self._x.shape}. If these are tokens, pass them without a column axis; if they "
                f"are features, pass x.astype({str(self._dtype)!r})."
            )
        steps = len(self._x)
        self._y = each(y, lambda own: _as_long("y", _long("y", own), steps))
        if not flat(self._y):
            raise ArgumentError("y must have the targets of a head, one or more.")
        self._weight = None if weight is None else _column("weight", weight, steps)
        self._reset = None if reset is None else _column("reset", reset, steps)
        if self._reset is not None and self._reset.dtype != np.bool_:
            raise DTypeError(f"reset must have dtype bool; got {self._reset.dtype}.")
        self.batch_size = positive_int("batch_size", batch_size)
        if self.batch_size > steps:
            raise ArgumentError(
                f"batch_size must be at most the number of steps, {steps}; got {self.batch_size}."
            )
        self._static = None if static is None else self._statics(static)
        self.k1 = positive_int("k1", k1)
        self.k2 = self.k1 if k2 is None else positive_int("k2", k2)
        if self.k2 < self.k1:
            raise ArgumentError(
                f"k2 must be at least k1 = {self.k1}, or the loss of the window's first steps "
                f"would have no gradient; got {self.k2}."
            )
        self.burn_in = integer("burn_in", burn_in)
        # The lanes with one step more come first.
        whole, more = divmod(steps, self.batch_size)
        self._lengths = np.full(self.batch_size, whole, np.int64)
        self._lengths[:more] += 1
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self.lane_steps = int(self._lengths.max())
        self._pages = ReadPages((self._x, *flat(self._y), self._weight, self._reset))
        if not 0 <= self.burn_in < self.lane_steps:
            raise ArgumentError(
                f"burn_in must be at least 0 and less than the steps of a lane, "
                f"{self.lane_steps}; got {self.burn_in}."
            )

    @property
    def float_dtype(self) -> np.dtype[Any] | None:
        weighted = self._static is not None or self._weight is not None
        weighted = weighted or self.burn_in > 0 or self.k2 > self.k1
        some = weighted or "f" in {array.dtype.kind for array in (self._x, *flat(self._y))}
        return self._dtype if some else None

    def __len__(self) -> int:
        return -(-self.lane_steps // self.k1)

    def batch(self, epoch: int, index: int) -> Batch:
        t0, t1 = self.window(index)
        x = self._cut(self._x, t0, t1)

        def targets(array: NDArray[Any]) -> NDArray[Any]:
            y = self._cut(array, t0, t1)
            return y if y.ndim == 3 or y.dtype.kind != "f" else y[..., None]

        lengths = np.clip(self._lengths - t0, 0, t1 - t0)
        reset = None if self._reset is None else self._cut(self._reset, t0, t1)
        next_t0 = self.window(index + 1)[0] if index + 1 < len(self) else 0
        return Batch(
            x if x.ndim == 3 or x.dtype.kind != "f" else x[..., None],
            each(self._y, targets),
            lengths=None if (lengths == t1 - t0).all() else lengths,
            weight=self._weights(index, t0, t1),
            reset=reset,
            static=self._static,
            continues=t0 > 0,
            keep=next_t0 - t0 if next_t0 > 0 else None,
        )

    def window(self, index: int) -> tuple[int, int]:
        """The steps [t0, t1) of a lane that batch number index reads."""
        t1 = min((index + 1) * self.k1, self.lane_steps)
        return max(0, (index + 1) * self.k1 - self.k2), t1

    def describe(self) -> dict[str, Any]:
        return {
            "source": "Stream",
            "x": f"{self._x.dtype} {self._x.shape}",
            "y": each(self._y, lambda y: f"{y.dtype} {y.shape}"),
            "weighted": self._weight is not None,
            "reset": self._reset is not None,
            "batch_size": self.batch_size,
            "k1": self.k1,
            "k2": self.k2,
            "burn_in": self.burn_in,
            "dtype": str(self._dtype),
            **({} if self._static is None else {"static": self._static.shape[1]}),
        }

    def contents(self) -> dict[str, str]:
        named = self._y.items() if isinstance(self._y, Mapping) else ()
        arrays = {"x": self._x, "weight": self._weight, "reset": self._reset}
        arrays |= {"static": self._static}
        arrays |= {f"y[{name!r}]": y for name, y in named} if named else {"y": self._y}
        return {name: fingerprint(array) for name, array in arrays.items() if array is not None}

    def _statics(self, static: Any) -> NDArray[Any]:
        """One row for each lane."""
        if is_array(static) and array_of("static", static).ndim == 1:
            row = array_of("static", static)
            static = np.repeat(np.asarray(row)[None], self.batch_size, axis=0)
        made: NDArray[Any] = cast(table_of(static, self.batch_size, "lane"), self._dtype)
        return made

    def _weights(self, index: int, t0: int, t1: int) -> NDArray[Any] | None:
        """The given weights, with 0 in the burn-in and at steps that an earlier window counted."""
        counted = max(index * self.k1, self.burn_in) - t0
        if self._weight is None and counted <= 0:
            return None
        if self._weight is None:
            weight = np.ones((t1 - t0, self.batch_size), self._dtype)
        else:
            weight = self._cut(self._weight, t0, t1).astype(self._dtype, copy=False)
        weight[: max(0, counted)] = 0
        return weight

    def _cut(self, array: NDArray[Any], t0: int, t1: int) -> NDArray[Any]:
        """Steps [t0, t1) of all lanes as (t1-t0, B, ...), with zeros after the end of a lane."""
        cut = np.zeros((t1 - t0, self.batch_size, *array.shape[1:]), array.dtype)
        for lane, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            stop = min(t1, int(length))
            if stop > t0:
                cut[: stop - t0, lane] = array[start + t0 : start + stop]
                self._pages.read(array, int(start) + t0, int(start) + stop)
        return cut if array.dtype == np.bool_ and array is self._reset else cast(cut, self._dtype)


def _long(name: str, value: Any) -> NDArray[Any]:
    if not is_array(value):
        raise DTypeError(
            f"{name} must be one array or memory map, time first; got {type(value).__name__}. For "
            "many sequences use gradcore.data.Sequences."
        )
    array = array_of(name, value)
    if array.ndim not in (1, 2):
        raise ShapeError(f"{name} must have shape (N,) or (N, columns); got {array.shape}.")
    not_empty(len(array), name)
    return array


def _as_long(name: str, array: NDArray[Any], steps: int) -> NDArray[Any]:
    if len(array) != steps:
        raise ShapeError(
            f"{name} must have one row per step of x, {steps}; it has {len(array)}. To predict "
            "the next step, pass x[:-1] and x[1:]."
        )
    return array


def _column(name: str, value: Any, steps: int) -> NDArray[Any]:
    array = _as_long(name, _long(name, value), steps)
    if array.ndim != 1:
        raise ShapeError(f"{name} must have one value per step, ({steps},); got {array.shape}.")
    return array
