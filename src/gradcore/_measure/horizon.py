"""How far back a gradient reaches: its norm by time step, the share of each window, the bias of
truncated backpropagation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer, positive_int
from .._base.named import each
from .._base.scaled import log10_norm
from .._engine.calls import apply, weighted_value
from .._engine.objective import AnyLoss, Objective, objective, resolve
from .._engine.prepare import Progress, prepare
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, at_one_exponent, state_size
from ..errors import ArgumentError
from ..jacobian import HiddenGradients, hidden_gradients
from ..jacobian._ranges import Ranges, one_way
from ..loss import Heads, Loss, LossFunction

__all__ = [
    "Reach",
    "TruncationBias",
    "WindowShares",
    "memory_length",
    "reach",
    "truncation_bias",
    "window_shares",
]


@dataclass(frozen=True, eq=False)
class WindowShares:
    """The share of each time window in the gradient g of the parameters.

    borders (n+1,): window i has the steps borders[i] to borders[i+1]-1. share (n,):
    <g_i, g> / |g|^2, where g_i is the sum over the window's steps; the shares sum to 1 and may be
    negative. norm_log10 (n,): log10 |g_i|, -inf for a norm of 0.
    """

    borders: NDArray[np.int64]
    share: NDArray[np.float64]
    norm_log10: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TruncationBias:
    """The error of the gradient g_K of truncated backpropagation through time.

    lengths (n,): truncation lengths K, ascending. error (n,): |g_K - g| / |g|, where g is the exact
    gradient. cosine (n,): the cosine of the angle between g_K and g.
    """

    lengths: NDArray[np.int64]
    error: NDArray[np.float64]
    cosine: NDArray[np.float64]

    def needed(self, error: float = 0.01) -> int | None:
        """The shortest measured length from which on the error is at most `error`; None if none."""
        good = self.error <= error
        late = np.flatnonzero(~good)
        first = int(late[-1]) + 1 if len(late) else 0
        return int(self.lengths[first]) if first < len(self.lengths) else None


def window_shares(
    net: Stack,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: AnyLoss,
    windows: int | Sequence[int] = 20,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> WindowShares:
    """The part of the exact gradient of the parameters that each time window contributes.

    The gradient is dL/dtheta = sum over t of (dL/dh_t)(dh_t/dtheta at constant h_(t-1)); a window
    contributes the terms whose t lies in it, while dL/dh_t covers all later steps. windows: the
    number of windows of equal length, or their inner borders. The other arguments are those of
    gradcore.value_and_grad; the net is in evaluation mode. Python loss functions, bidirectional
    layers and Pools are refused.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    work = _Work(
        net,
        params,
        x,
        y,
        loss,
        weight,
        lengths,
        reset,
        state,
        static,
        memory,
        threads,
        "window_shares",
    )
    borders = _borders(windows, work.ranges.steps)
    parts = work.gradients(borders, chained=True, progress=progress)
    total = _sum(parts)
    square = _dot(total, total)
    shares = [0.0 if square == 0 else _dot(part, total) / square for part in _aligned(parts, total)]
    return WindowShares(
        np.array(borders, np.int64),
        np.array(shares),
        np.array([log10_norm(values, exponent) for values, exponent in parts]),
    )


def truncation_bias(
    net: Stack,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: AnyLoss,
    truncations: Sequence[int] | None = None,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TruncationBias:
    """The error of the gradient of truncated backpropagation with chunks of K steps.

    The state is carried from chunk to chunk, but no gradient goes from a chunk to the one before,
    as when training on gradcore.data.Stream with k1 = k2 = K. truncations: the lengths K; by
    default powers of two from 16 to half of T. Each costs about as much as a gradient. The other
    arguments are those of window_shares.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Williams and Peng 1990 (the algorithm); Tallec and Ollivier 2017 (its bias).
    """
    work = _Work(
        net,
        params,
        x,
        y,
        loss,
        weight,
        lengths,
        reset,
        state,
        static,
        memory,
        threads,
        "truncation_bias",
    )
    steps = work.ranges.steps
    if truncations is None:
        chosen = [2**n for n in range(4, 40) if 2**n <= steps // 2] or [steps]
    else:
        chosen = sorted({positive_int("truncations", k) for k in truncations})
        if not chosen:
            raise ArgumentError("truncations must name at least one length.")
    exact = work.gradients([0, steps], chained=True)[0]
    norm = np.sqrt(_dot(exact, exact))
    errors, cosines = [], []
    for count, length in enumerate(chosen):
        borders = [*range(0, steps, length), steps]
        cut, whole = _aligned([_sum(work.gradients(borders, chained=False)), exact], exact)
        off = (cut[0] - whole[0], exact[1])
        errors.append(np.sqrt(_dot(off, off)) / norm if norm else 0.0)
        size = np.sqrt(_dot(cut, cut))
        cosines.append(_dot(cut, exact) / (norm * size) if norm and size else 1.0)
        if progress is not None:
            progress(count + 1, len(chosen))
    return TruncationBias(np.array(chosen, np.int64), np.array(errors), np.array(cosines))


@dataclass(frozen=True, eq=False)
class Reach:
    """The size, at each step, of a gradient that starts at the outputs of the last step.

    In a net with a Pool it starts at the one output of each sequence. norm_log10 (T, B): log10 of
    the root mean square norm of the gradient with respect to h_t, over random cotangents of the
    outputs of each sequence's last step; -inf for 0 and from the sequence's end on. ends (B,): the
    steps of each sequence. layer: the number of the recurrent layer of h_t.
    """

    norm_log10: NDArray[np.float64]
    ends: NDArray[np.int64]
    layer: int

    def memory_length(self, fraction: float = 0.01) -> NDArray[np.int64]:
        """The effective memory length of each sequence, (B,), in steps.

        It is defined here as the largest lag at which the gradient with respect to h_(T-1-lag)
        still has `fraction` of its norm at lag 0; T-1 if the first step still has it, and 0 if the
        gradient is 0 at lag 0. Behind a mean, a maximum or attention the output reads every step
        itself, so that this is how early a step still counts rather than how long h_t remembers.
        """
        if not 0 < fraction < 1:
            raise ArgumentError(f"fraction must be in (0, 1); got {fraction}.")
        result = np.zeros(len(self.ends), np.int64)
        for b, end in enumerate(self.ends - 1):
            logs = self.norm_log10[: end + 1, b]
            if end >= 0 and logs[end] > -np.inf:
                above = np.flatnonzero(logs >= logs[end] + np.log10(fraction))
                result[b] = end - int(above[0])
        return result


def reach(
    net: Stack,
    params: Params,
    x: Any,
    *,
    layer: int = -1,
    probes: int = 4,
    seed: int = 0,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Reach:
    """How far a gradient of the last step's outputs reaches back; it needs no targets.

    Of a net with a Pool it is the gradient of the one output of each sequence. Where layers shorten
    time, steps are those of the layer, and a lag is counted from its own last step.
    layer: the recurrent layer in whose outputs h_t the gradient is measured; negative numbers count
    from the end. probes: the number of random cotangents, each of which takes a backward pass;
    their mean square estimates the Frobenius norm of the Jacobian of the last outputs with respect
    to h_t. seed: seed of the cotangents. The net is in evaluation mode; the other arguments are
    those of gradcore.apply.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Pascanu, Mikolov and Bengio 2013, section 2, bound the decay with the lag.
    """
    validate.model(net, params)
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
    rng = np.random.default_rng(integer("seed", seed))
    count = positive_int("probes", probes)
    ends = np.full(ranges.batch, ranges.steps) if lengths is None else np.array(lengths, np.int64)
    last = net.output_lengths(ends)
    squares: Any = -np.inf
    found: HiddenGradients | None = None
    for probe in range(count):
        cotangent = rng.standard_normal((ranges.batch, net.output_size)).astype(params.dtype)
        cotangent = net.named(cotangent)
        found = hidden_gradients(
            net,
            params,
            x,
            loss=_at_end(cotangent, last) if net.pool is None else _of_pool(cotangent),
            layer=layer,
            norms_only=True,
            lengths=lengths,
            reset=reset,
            state=state,
            static=static,
            memory=memory,
            threads=threads,
        )
        squares = np.logaddexp2(squares, 2 * found.norm_log10 * np.log2(10.0))
        if progress is not None:
            progress(probe + 1, count)
    assert found is not None
    place = int(net.recurrent_names[found.layer].partition(".")[0])
    own = np.asarray(net.steps_at(place, ends), np.int64)
    return Reach((squares - np.log2(count)) * 0.5 * np.log10(2.0), own, found.layer)


def memory_length(
    net: Stack, params: Params, x: Any, *, fraction: float = 0.01, **how: Any
) -> NDArray[np.int64]:
    """The effective memory length of each sequence, (B,), in steps.

    It is reach(net, params, x).memory_length(fraction); see there. The other arguments and errors
    are those of reach.
    """
    return reach(net, params, x, **how).memory_length(fraction)


def _at_end(cotangent: Any, last: NDArray[Any]) -> LossFunction:
    """A loss function whose gradient is the cotangent at each sequence's last step.

    cotangent: (B, O), or a dict of such arrays by head.
    """

    def slopes(outputs: NDArray[Any], own: NDArray[Any], t0: int, t1: int) -> NDArray[Any]:
        d_outputs = np.zeros_like(outputs)
        for b, end in enumerate(last):
            if t0 <= end - 1 < t1:
                d_outputs[end - 1 - t0, b] = own[b]
        return d_outputs

    def function(outputs: Any, t0: int, t1: int) -> tuple[float, Any]:
        if isinstance(cotangent, Mapping):
            heads = {name: slopes(outputs[name], own, t0, t1) for name, own in cotangent.items()}
            return 0.0, heads
        return 0.0, slopes(outputs, cotangent, t0, t1)

    return function


def _of_pool(cotangent: NDArray[Any]) -> LossFunction:
    """A loss function whose gradient is the cotangent of the outputs (B, O) behind a Pool."""
    return lambda outputs, t0, t1: (0.0, cotangent)


# ---- gradients of windows

# (values, exponent): the true values are values * 2**exponent.
_Scaled = tuple[NDArray[np.float64], int]


class _Work:
    """A loss over a sequence in a form that can be split into windows.

    A loss of the last step is replaced by one of all steps with weights of 0 and 1, and a mean by a
    sum, which is divided at the end.
    """

    def __init__(
        self,
        net: Stack,
        params: Params,
        x: Any,
        y: Any,
        loss: AnyLoss,
        weight: Any,
        lengths: Any,
        reset: Any,
        state: Sequence[LayerState] | None,
        static: Any,
        memory: int | str | None,
        threads: int | None,
        what: str,
    ) -> None:
        validate.model(net, params)
        one_way(net, what)
        if net.pool is not None:
            raise ArgumentError(
                f"{what} needs a loss that is a sum over windows of time, and the net has a Pool, "
                "so that its loss depends on all steps at once. horizon.reach tells how the "
                "gradient of its outputs is spread over the steps."
            )
        described = resolve(loss)
        if not isinstance(described, Loss):
            raise ArgumentError(
                f"loss must be a name or an object of gradcore.loss for {what}; got {loss!r}."
            )
        if not described.adds_up:
            raise ArgumentError(
                f"{what} needs a loss whose windows add up to the whole, and "
                f"{type(described).__name__} depends on all steps at once."
            )
        self.net, self.params, self.state = net, params, state
        self.memory, self.threads = memory, threads
        self.ranges = Ranges(net, params.dtype, x, lengths, reset, static)
        steps, batch = self.ranges.steps, self.ranges.batch
        inputs = validate.Inputs(steps, batch, steps, {})
        objective(described, net, params.dtype, inputs, y, weight)  # checks y and weight
        ends = np.full(batch, steps) if lengths is None else np.asarray(lengths)
        at_end = np.arange(steps)[:, None] == ends - 1

        def of_steps(own: Loss, y: Any, weight: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
            """Targets and weights of a loss of all steps in place of one of the last step."""
            y = validate.as_array("y", y)
            weights = None if weight is None else validate.as_array("weight", weight)
            if own.step != "last":
                return y, weights
            weights = (at_end * (1 if weights is None else weights)).astype(params.dtype)
            return np.broadcast_to(y, (steps, *y.shape)), weights

        self.mean = False
        self.loss: Loss
        self.y: Any
        self.weights: Any
        if isinstance(described, Heads):
            self.loss, given = self._summed(described, x, y, weight, lengths, reset)
            by_head = {
                name: of_steps(
                    own, y[name], weight.get(name) if isinstance(weight, Mapping) else weight
                )
                for name, own, _ in described.entries
                if name in given
            }
            self.y = {name: pair[0] for name, pair in by_head.items()}
            self.weights = {name: pair[1] for name, pair in by_head.items()}
        else:
            self.loss = replace(described, step="all", reduction="sum")
            self.y, self.weights = of_steps(described, y, weight)
            self.mean = described.reduction == "mean"

    def _summed(
        self, loss: Heads, x: Any, y: Any, weight: Any, lengths: Any, reset: Any
    ) -> tuple[Heads, set[str]]:
        """Sums in place of the means of heads, which have divisors of their own; heads with y."""
        found = weighted_value(
            self.net,
            self.params,
            x,
            y,
            loss=loss,
            weight=weight,
            lengths=lengths,
            reset=reset,
            state=self.state,
            memory=self.memory,
            threads=self.threads,
        )
        assert found.heads is not None
        assert self.net.heads is not None
        columns = self.net.heads.columns
        weights = dict.fromkeys(loss.weights, 0.0)
        for name, own, scale in loss.entries:
            if name in found.heads:
                width = columns[name].stop - columns[name].start
                terms = found.heads[name][1] * own._terms(width)
                weights[name] = scale
                if own.reduction == "mean":
                    weights[name] = scale / terms if terms else 0.0
        return loss.summed(weights), set(found.heads)

    def gradients(
        self, borders: Sequence[int], *, chained: bool, progress: Progress | None = None
    ) -> list[_Scaled]:
        """The contribution of each window to the gradient of the parameters, in float64.

        chained: include the gradient that comes back from later windows; otherwise each window has
        only that of its own loss.
        """
        states = self._states(borders)
        arriving: tuple[NDArray[Any] | None, int] = (None, 0)
        parts: list[_Scaled] = []
        terms = 0.0
        pairs = list(pairwise(borders))
        for count, (t0, t1) in enumerate(reversed(pairs)):
            grads, weight, arriving = self._window(t0, t1, states[t0], arriving)
            terms += weight
            parts.append(grads)
            if not chained:
                arriving = (None, 0)
            if progress is not None:
                progress(count + 1, len(pairs))
        scale = 1 / terms if self.mean and terms else 1.0
        return [(values * scale, exponent) for values, exponent in reversed(parts)]

    def _states(self, borders: Sequence[int]) -> dict[int, Sequence[LayerState] | None]:
        states: dict[int, Sequence[LayerState] | None] = {0: self.state}
        for t0, t1 in pairwise(borders[:-1]):
            _, states[t1] = apply(
                self.net,
                self.params,
                **self.ranges[t0:t1],
                state=states[t0],
                memory=self.memory,
                threads=self.threads,
            )
        return states

    def _window(
        self,
        t0: int,
        t1: int,
        state: Sequence[LayerState] | None,
        arriving: tuple[NDArray[Any] | None, int],
    ) -> tuple[_Scaled, float, tuple[NDArray[Any], int]]:
        """The gradient, the weight of the loss terms, and the adjoint for the window before."""
        net, dtype, batch = self.net, self.params.dtype, self.ranges.batch
        inputs = validate.inputs(net, dtype, **self.ranges[t0:t1], state=state)

        def cut(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if array is None else np.ascontiguousarray(array[t0:t1])

        weights, y = each(self.weights, cut), each(self.y, cut)
        window = validate.Inputs(t1 - t0, batch, t1 - t0, {})
        goal: Objective = objective(self.loss, net, dtype, window, y, weights)
        grads = np.empty(net.n_parameters, dtype)
        dstate = np.empty(state_size(net, batch), dtype)
        exponents = np.empty(net.n_states, np.int32)
        report, _ = prepare(
            self.params,
            inputs.beside({"cotangent_final_state": arriving[0]}),
            validate.mode(net, False, None),
            goal,
            {"grads": grads, "dstate": dstate, "dstate_exponent": exponents},
            self.memory,
            self.threads,
            None,
            cotangents=1,
            final_exponent=arriving[1],
        ).run()
        scaled = (grads.astype(np.float64), report.grads_exponent)
        exponent = at_one_exponent(net, batch, dstate, exponents)
        return scaled, report.loss_weight, (dstate[None], exponent)


def _borders(windows: int | Sequence[int], steps: int) -> list[int]:
    if isinstance(windows, (int, np.integer)):
        count = min(positive_int("windows", windows), steps)
        return [steps * i // count for i in range(count + 1)]
    inner = [integer("windows", t) for t in windows]
    if sorted(set(inner)) != inner or any(not 0 < t < steps for t in inner):
        raise ArgumentError(
            f"windows must be a number, or ascending inner borders in 1..T-1 = 1..{steps - 1}; "
            f"got {inner}."
        )
    return [0, *inner, steps]


def _aligned(parts: Sequence[_Scaled], like: _Scaled) -> list[_Scaled]:
    """The same values, rescaled to the exponent of `like`."""
    exponent = like[1]
    return [(np.ldexp(values, own - exponent), exponent) for values, own in parts]


def _sum(parts: Sequence[_Scaled]) -> _Scaled:
    most = max(exponent for _, exponent in parts)
    total = sum(np.ldexp(values, exponent - most) for values, exponent in parts)
    return np.asarray(total), most


def _dot(a: _Scaled, b: _Scaled) -> float:
    """The dot product of two values of the same exponent e, divided by 2**(2*e)."""
    return float(np.dot(a[0], b[0]))
