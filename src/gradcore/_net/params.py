"""Named parameters and gradients as views of one flat buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_dtype, integer
from .._base.scaled import log10_norm
from ..errors import ArgumentError, DTypeError, ShapeError
from .layers import Composite, ParameterSpec, Stack

__all__ = ["Grads", "Params"]

Self = TypeVar("Self", bound="_FlatArrays")


class _FlatArrays(Mapping[str, NDArray[Any]]):
    """A flat buffer [n_parameters] with a view for every parameter of a net."""

    def __init__(self, net: Stack | Composite, flat: NDArray[Any]) -> None:
        self._owner = net
        self._flat = _checked_flat(net, flat, type(self).__name__)
        self._views = {
            spec.name: self._flat[spec.start : spec.stop].reshape(spec.shape)
            for spec in net.parameter_specs
        }

    @property
    def net(self) -> Stack:
        """The Stack whose parameters these are.

        Raises DTypeError if they are of something else, as an implicit.Model.
        """
        if not isinstance(self._owner, Stack):
            kind = type(self._owner).__name__
            raise DTypeError(
                f"a gradcore.Stack and its own {type(self).__name__} are needed here; these are of "
                f"a {kind}. Those of each Stack in a Model are model.parts(params)."
            )
        return self._owner

    @property
    def owner(self) -> Stack | Composite:
        """What the parameters are of: a Stack, or what is made of several."""
        return self._owner

    @property
    def flat(self) -> NDArray[Any]:
        """The buffer itself, 1-D; writing to it writes to every view."""
        return self._flat

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._flat.dtype

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._views[name]
        except KeyError:
            known = ", ".join(self._views)
            raise KeyError(f"no parameter {name!r}; this net has {known}") from None

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        """Copies an array of the same shape and dtype into the view.

        Raises ShapeError or DTypeError; nothing is cast or broadcast.
        """
        view = self[name]
        spec = next(spec for spec in self._owner.parameter_specs if spec.name == name)
        _check_assigned(spec, view, value)
        np.copyto(view, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        """Whether net, dtype and all values are equal."""
        if type(other) is not type(self):
            return NotImplemented
        same = self._owner == other._owner and self.dtype == other.dtype
        return same and np.array_equal(self._flat, other._flat)

    __hash__ = None  # type: ignore[assignment]

    def copy(self: Self) -> Self:
        """The same values in a buffer of their own."""
        return self._like(self._flat.copy())

    def astype(self: Self, dtype: str) -> Self:
        """The values rounded to float32 or widened to float64, in a buffer of their own."""
        return self._like(self._flat.astype(float_dtype("dtype", dtype)))

    def _like(self: Self, flat: NDArray[Any]) -> Self:
        return type(self)(self._owner, flat)

    def __copy__(self: Self) -> Self:
        return self.copy()

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._owner, self._flat)

    def __repr__(self) -> str:
        width = max((len(name) for name in self), default=0)
        rows = "".join(f"\n  {name:{width}}  {view.shape}" for name, view in self.items())
        return f"{type(self).__name__}({self.dtype}, {self._flat.size:,} values){rows}"


class Params(_FlatArrays):
    """Parameters of a net: a mapping from "<place in the Stack>.<name>" to arrays.

    net: the Stack. flat: 1-D float32 or float64 buffer of net.n_parameters values, kept and not
    copied. `params[name] = array` copies values in; `params.flat` is the whole.
    Raises ShapeError or DTypeError if flat does not fit.
    """


class Grads(_FlatArrays):
    """Gradients, laid out like the parameters they belong to.

    The true gradient is `flat * 2**exponent`; the exponent is 0 unless the numbers would leave
    the range of the dtype.
    """

    def __init__(self, net: Stack | Composite, flat: NDArray[Any], exponent: int = 0) -> None:
        super().__init__(net, flat)
        self._exponent = integer("exponent", exponent)

    @property
    def exponent(self) -> int:
        """Power of two that all values are to be multiplied by."""
        return self._exponent

    def written(self, exponent: int) -> Grads:
        """These gradients after a call has written new values with their exponent."""
        self._exponent = exponent
        return self

    def norm_log10(self) -> float:
        """log10 of the Euclidean norm of the true gradient; -inf for a zero gradient."""
        return float(log10_norm(self._flat, self._exponent))

    def _like(self, flat: NDArray[Any]) -> Grads:
        return Grads(self._owner, flat, self._exponent)

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        if same is True and isinstance(other, Grads):
            return self._exponent == other._exponent
        return same

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Grads, (self._owner, self._flat, self._exponent)

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n  times 2**{self._exponent}"


def _checked_flat(net: Stack | Composite, flat: NDArray[Any], owner: str) -> NDArray[Any]:
    if not isinstance(net, (Stack, Composite)):
        raise DTypeError(f"{owner} needs a Stack; got {net!r}.")
    if not isinstance(flat, np.ndarray):
        raise DTypeError(f"{owner} needs a NumPy array; got {type(flat).__name__}.")
    float_dtype(f"the dtype of {owner}.flat", flat.dtype)
    if flat.shape != (net.n_parameters,):
        raise ShapeError(
            f"{owner}.flat must have shape ({net.n_parameters},), one value per parameter of "
            f"the net; got {flat.shape}."
        )
    if not flat.flags.carray:
        raise ArgumentError(
            f"{owner}.flat must be contiguous, aligned and writeable, because its views are "
            "written to; pass flat.copy()."
        )
    return flat


def _check_assigned(spec: ParameterSpec, view: NDArray[Any], value: object) -> None:
    if not isinstance(value, np.ndarray):
        raise DTypeError(
            f"{spec.name} must be given a NumPy array; got {type(value).__name__}. "
            f"Use numpy.asarray(value, dtype={str(view.dtype)!r})."
        )
    if value.shape != spec.shape:
        transposed = value.ndim == 2 and value.T.shape == spec.shape
        hint = " Pass its .T if it is transposed." if transposed else ""
        raise ShapeError(
            f"{spec.name} must have shape {spec.meaning.replace(')', f') = {spec.shape}', 1)}; "
            f"got {value.shape}.{hint}"
        )
    if value.dtype != view.dtype:
        raise DTypeError(
            f"{spec.name} must have dtype {view.dtype}, that of the parameters; got "
            f"{value.dtype}. Convert it with .astype({str(view.dtype)!r})."
        )
