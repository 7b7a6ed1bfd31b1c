"""Gradients beyond the range of their dtype, kept beside .grad with their exponents.

.grad is infinite where a gradient leaves float32. The numbers that belong there are known in the
backward pass of a layer. They are kept from the moment when autograd adds them to .grad, together
with the identity and the version counter of that tensor: whoever changes or replaces .grad
afterwards makes them invalid, and a backward pass that does not write to .grad, as that of
torch.autograd.grad, leaves nothing behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from .._net.stack import Grads
from ..errors import NonFiniteError
from ._wide import Wide

__all__ = ["HELP", "Overflow", "forget", "kept", "lost_reason", "set_aside"]

HELP = (
    "gradcore.torch.clip_grad_norm_ clips such gradients with their true norm and direction; "
    "torch.nn.utils.clip_grad_norm_ makes them NaN."
)


class Overflow:
    """What a layer remembers of gradients that left the range of its dtype."""

    def __init__(self) -> None:
        self.happened = False

    def arrived(self, weights: Iterable[Tensor], grads: Grads) -> None:
        """A backward pass of the layer gave `grads`, which belong to `weights` in their order."""
        if not grads.exponent and not len(_keepers):
            return
        task = _task()
        start = 0
        for weight in weights:
            stop = start + weight.numel()
            piece = grads.flat[start:stop].reshape(weight.shape)
            start = stop
            # Autograd adds to .grad of leaves only, and the wrappers of torch.func are no leaves.
            if isinstance(weight, nn.Parameter) and weight.requires_grad and task >= 0:
                keeper = _keepers.get(weight)
                if grads.exponent or (keeper is not None and task in keeper.pending):
                    _keeper(weight).expect(task, Wide.of(piece, grads.exponent))
        if grads.exponent and not self.happened:
            self.happened = True
            _warn_once_per_pass(task, grads.flat.dtype)

    def named(self, error: NonFiniteError) -> NonFiniteError:
        """The error, which says if such gradients can be its cause."""
        if not self.happened:
            return error
        return NonFiniteError(
            f"{error} A gradient of this layer left the range of its dtype before, and a step "
            f"with it makes weights NaN: {HELP}",
            error.layer,
            error.step,
            error.sequence,
        )


class _Kept(NamedTuple):
    """The true value of a tensor that is or was in .grad; version is that of its counter."""

    grad: Any  # a TensorWeakRef, which has no types
    version: int
    value: Wide


class _Next(NamedTuple):
    """What .grad will be after backward pass `task` has added to it, or why that is not known."""

    task: int
    value: Wide | None
    reason: str
    own_counter: bool


class _Keeper:
    """What belongs beside .grad of one parameter, and the hooks that keep it up to date."""

    def __init__(self, parameter: Tensor) -> None:
        # By the number of the backward pass: what calls of layers gave in it, and how many calls.
        # Autograd's own sum over all uses of the parameter arrives after all of them.
        self.pending: dict[int, tuple[Wide, int]] = {}
        self.kept: _Kept | None = None
        self._reason = ""
        self._next: _Next | None = None
        self._parameter: Any = TensorWeakRef(parameter)
        self._before_hook: Any = None
        self._after_hook: Any = None
        self.open()

    def expect(self, task: int, value: Wide) -> None:
        """A call of a layer gave `value` in backward pass `task`."""
        if task not in self.pending:
            # Hooks run in the order of their registration: ours sees what the user's have made.
            self._before_hook.remove()
            self._before_hook = self._parameter().register_hook(self._before_sum)
            self.pending = {task: (value, 1)}
            return
        found, calls = self.pending[task]
        self.pending = {task: (found.plus(value), calls + 1)}

    def valid(self, grad: Tensor | None) -> Wide | None:
        kept = self.kept
        if kept is None or grad is None or kept.grad() is not grad:
            return None
        return kept.value if kept.version == grad._version else None

    def reason(self, grad: Tensor | None) -> str:
        """Why nothing valid is kept for `grad`; empty where nothing is missing."""
        if self.valid(grad) is not None or grad is None or not bool(grad.any()):
            return ""
        if self.kept is None:
            return self._reason
        changed = self.kept.grad() is grad
        return f".grad was {'changed in place' if changed else 'replaced'} after backward()"

    def open(self) -> None:
        """Has the hooks called in backward passes, until close()."""
        parameter = self._parameter()
        self._before_hook = parameter.register_hook(self._before_sum)
        self._after_hook = parameter.register_post_accumulate_grad_hook(self._after_sum)

    def close(self) -> None:
        self._before_hook.remove()
        self._after_hook.remove()

    @torch.no_grad()
    def _before_sum(self, arriving: Tensor) -> None:
        """Autograd is about to add `arriving` to .grad, or to hand it to torch.autograd.grad."""
        parameter = self._parameter()
        grad = parameter.grad
        task = _task()
        told, self.pending = self.pending.get(task), {}
        valid, reason = self.valid(grad), self.reason(grad)
        before = valid
        if before is None and grad is not None and bool(torch.isfinite(grad).all()):
            before, reason = Wide.of(_array(grad)), ""
        if told is None and valid is None and not reason:
            forget(parameter)
            return
        given, mismatch = self._sum_of(arriving, told)
        reason = reason or mismatch
        after = None
        if not reason and given is not None:
            after = given if before is None else before.plus(given)
        self._next = _Next(task, after, reason, own_counter=valid is not None)

    def _sum_of(self, arriving: Tensor, told: tuple[Wide, int] | None) -> tuple[Wide | None, str]:
        """What arrives with the numbers beyond the dtype, or why they are not known."""
        finite = torch.isfinite(arriving)
        if told is None:
            if bool(finite.all()):
                return Wide.of(_array(arriving)), ""
            return None, "a part of the model that is no layer of gradcore gave infinite numbers"
        wide, calls = told
        known = wide.tensor(arriving)
        known_finite = torch.isfinite(known)
        # The sum of several calls can be finite where autograd's is inf - inf.
        if bool((finite & ~known_finite).any()) or (
            calls == 1 and not torch.equal(finite, known_finite)
        ):
            return None, "another use of the parameter, or a hook, changed which numbers are finite"
        visible = finite & known_finite
        rest = torch.where(visible, arriving - known, 0.0)
        if len(self._parameter()._backward_hooks) > 1 and (
            bool(rest.any()) or not bool(known[visible].any())
        ):
            return None, "a hook of the parameter can have changed the gradient"
        # What other uses of the parameter give is seen only where .grad is finite. Where it is
        # not, it matters only if it is above the rounding error of the largest number.
        others = Wide.of(_array(rest))
        if others.values.any() and others.exponent > wide.exponent - 24 and calls == 1:
            return None, "another use of the parameter gave a gradient of a similar size"
        return wide.plus(others), ""

    def _after_sum(self, parameter: Tensor) -> None:
        """Autograd has added to .grad what _before_sum saw."""
        found, self._next = self._next, None
        grad = parameter.grad
        if grad is None or found is None or found.task != _task():
            return
        self.kept, self._reason = None, found.reason
        if bool(torch.isfinite(grad).all()):
            forget(parameter)
        elif found.value is not None:
            if not found.own_counter:
                # The gradients of one call are views of one tensor and share its counter; .data has
                # the same memory and a counter of its own.
                grad = parameter.grad = grad.data
            self.kept = _Kept(TensorWeakRef(grad), grad._version, found.value)


_keepers: Any = WeakTensorKeyDictionary()
_warned_in = -1


def kept(parameter: Tensor) -> Wide | None:
    """The true gradient of a parameter whose .grad is beyond its dtype; None if .grad is all."""
    keeper = _keepers.get(parameter)
    value: Wide | None = None if keeper is None else keeper.valid(parameter.grad)
    return value


def lost_reason(parameter: Tensor) -> str:
    """Why the true gradient of a parameter is no longer known; empty where nothing was lost."""
    keeper = _keepers.get(parameter)
    return "" if keeper is None else str(keeper.reason(parameter.grad))


def forget(parameter: Tensor) -> None:
    """.grad alone counts from now on."""
    keeper = _keepers.pop(parameter, None)
    if keeper is not None:
        keeper.close()


@contextmanager
def set_aside(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Takes .grad of parameters, and what is kept beside it, away and brings both back afterwards.

    Backward passes in between find no .grad and leave none.
    """
    before = [(one, one.grad, _keepers.pop(one, None)) for one in parameters]
    for parameter, _, keeper in before:
        parameter.grad = None
        if keeper is not None:
            keeper.close()
    try:
        yield
    finally:
        for parameter, grad, keeper in before:
            forget(parameter)
            parameter.grad = grad
            if keeper is not None:
                keeper.open()
                _keepers[parameter] = keeper


def _keeper(parameter: Tensor) -> _Keeper:
    found = _keepers.get(parameter)
    if found is None:
        found = _keepers[parameter] = _Keeper(parameter)
    assert isinstance(found, _Keeper)
    return found


def _array(tensor: Tensor) -> Any:
    return tensor.detach().resolve_neg().numpy()


def _task() -> int:
    """The number of the backward pass that runs in this thread; -1 outside of one."""
    return torch._C._current_graph_task_id()


def _warn_once_per_pass(task: int, dtype: np.dtype[Any]) -> None:
    """Several layers of a model overflow in one pass; one warning is enough."""
    global _warned_in
    if task >= 0 and task == _warned_in:
        return
    _warned_in = task
    warnings.warn(
        f"a gradient left the range of {dtype}, so that .grad is infinite. {HELP}", stacklevel=2
    )
