"""Problems that gradcore and the reference both solve, and how their solutions are compared."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import gradcore as gd
from gradcore import _core
from overriding import override
from reference import losses, philox, pipeline, two_ways


@dataclass(frozen=True)
class Problem:
    """A net with parameters and data. Arrays are float64, with values that float32 holds exactly.

    state: a list of reference.pipeline.State, or None.
    """

    net: gd.Stack
    params: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    loss: Any
    weight: np.ndarray | None = None
    lengths: np.ndarray | None = None
    reset: np.ndarray | None = None
    state: list[pipeline.State] | None = None
    train: bool = False
    seed: tuple[int, int] | None = None

    @property
    def tokens(self):
        return self.x.dtype.kind in "iu"

    @property
    def masks(self):
        return {"lengths": self.lengths, "reset": self.reset}

    @property
    def mode(self):
        return philox.Mode(self.train, *(self.seed or ()))


@dataclass(frozen=True)
class Solution:
    loss: float
    params: dict[str, np.ndarray]
    x: np.ndarray | None
    dstate: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    outputs: np.ndarray


# ---- the reference's solution


def named(states):
    """A state as a dict of arrays "<n>.past" and "<n>.c", where n counts layers and their
    directions.
    """
    arrays = {f"{i}.past": layer.past for i, layer in enumerate(states)}
    return arrays | {f"{i}.c": layer.c for i, layer in enumerate(states) if layer.c is not None}


def by_reference(problem):
    p = problem
    trace = two_ways.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    value, d_outputs = losses.evaluate(p.loss, trace.outputs, p.y, p.weight, p.lengths)
    found = two_ways.backward(p.net, p.params, trace, d_outputs)
    return Solution(
        value, found.params, found.x, named(found.state), named(trace.state), trace.outputs
    )


# ---- gradcore's solution


def core_params(problem, dtype):
    params = gd.Params(problem.net, np.empty(problem.net.n_parameters, dtype))
    for name, array in problem.params.items():
        params[name] = array.astype(dtype)
    assert set(params) == set(problem.params)
    return params


def core_state(problem, dtype):
    """The initial state in the form that gradcore takes."""
    if problem.state is None:
        return None
    left = list(problem.state)

    def take(layer, directions):
        state = left.pop(0)
        past = state.past.astype(dtype)
        c = None if state.c is None else state.c.astype(dtype)
        reverse = take(layer, directions - 1) if directions > 1 else None
        return gd.LayerState(past[-1].copy(), c, None if layer.skip is None else past, reverse)

    layers = tuple(take(layer, len(layer.directions)) for layer in problem.net.recurrent)
    windows = tuple(s.past.astype(dtype) for s in left)
    assert len(windows) == len(problem.net.windows)
    return layers + tuple(gd.LayerState(past[-1].copy(), None, past) for past in windows)


def by_direction(net, states):
    """Pairs (layer, state) for every layer and direction, then for every convolution."""
    layers = [*net.recurrent, *(layer for layer, _ in net.windows)]
    for layer, state in zip(layers, states, strict=True):
        yield layer, state
        assert (state.reverse is not None) == getattr(layer, "bidirectional", False)
        if state.reverse is not None:
            yield layer, state.reverse


def past_rows(layer, state):
    """The rows of a state [k, B, H], oldest first; of a layer without a skip only the last one."""
    only_last = getattr(layer, "skip", state.skip) is None
    return state.h[None] if only_last else state.skip


def from_core(net, states, exponents=None):
    """A state of gradcore as float64 arrays by name."""
    arrays = {}
    for i, (layer, state) in enumerate(by_direction(net, states)):
        past = past_rows(layer, state)
        scale = 0 if exponents is None else int(exponents[i])
        arrays[f"{i}.past"] = np.ldexp(past.astype(float), scale)
        if state.c is not None:
            arrays[f"{i}.c"] = np.ldexp(state.c.astype(float), scale)
    return arrays


def core_arguments(problem, dtype):
    """net, params, x and the keyword arguments that apply, value and value_and_grad share."""
    x = problem.x.copy() if problem.tokens else problem.x.astype(dtype)
    x.flags.writeable = False
    state = core_state(problem, dtype)
    keywords = {"state": state, "train": problem.train, "seed": problem.seed}
    return (problem.net, core_params(problem, dtype), x), {**problem.masks, **keywords}


def core_targets(problem, dtype):
    float_targets = problem.y.dtype.kind == "f"
    return {
        "y": problem.y.astype(dtype) if float_targets else problem.y,
        "weight": None if problem.weight is None else problem.weight.astype(dtype),
        "loss": problem.loss,
    }


def by_core(problem, dtype="float64", *, memory="full", threads=1):
    """gradcore's results in float64; gradients must have exponents that float64 can hold."""
    arguments, keywords = core_arguments(problem, dtype)
    wrt = ("params", "state") if problem.tokens else ("params", "x", "state")
    how = {"memory": memory, "threads": threads}
    with override(exact_threads=True):
        r = gd.value_and_grad(
            *arguments, **keywords, **core_targets(problem, dtype), wrt=wrt, **how
        )
        outputs, state = gd.apply(*arguments, **keywords, **how)
    assert r.plan.bytes <= (np.inf if memory == "full" else memory)
    if threads == 1:  # the planner assumes as many threads as the cost model allows
        assert r.arena_bytes <= r.plan.bytes
    one, other = from_core(problem.net, r.state), from_core(problem.net, state)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    params = {name: np.ldexp(a.astype(float), r.grads.exponent) for name, a in r.grads.items()}
    dx = None if r.dx is None else np.ldexp(r.dx.astype(float), r.dx_exponent[:, None, None])
    return Solution(
        r.loss,
        params,
        dx,
        from_core(problem.net, r.dstate, r.dstate_exponent),
        from_core(problem.net, state),
        outputs.astype(float),
    )


@contextmanager
def isa(level):
    """Forces a level of instructions; None changes nothing."""
    _core.force_isa(level)
    try:
        yield
    finally:
        _core.force_isa(None)


# ---- comparison


def norm(arrays):
    return float(np.sqrt(sum(np.vdot(a, a) for a in arrays)))


def error(got, expected, floor=0.0):
    """|got - expected| / max(|expected|, floor), and 0 for two zeros."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    off = norm([got - expected])
    return off and off / max(norm([expected]), floor, 1e-300)


def errors(got, expected, small=1e-2):
    """Errors by norm of everything in a Solution, by name.

    A gradient smaller than `small` times all gradients of its kind is compared with that size,
    because it may be a difference of larger terms.
    """
    found = {
        "loss": abs(got.loss - expected.loss) / max(abs(expected.loss), 1e-300),
        "outputs": error(got.outputs, expected.outputs),
    }
    if expected.loss == 0.0:
        found["loss"] = abs(got.loss)
    if expected.x is not None:
        found["dx"] = error(got.x, expected.x)
    for kind in ("params", "dstate", "state"):
        want, have = getattr(expected, kind), getattr(got, kind)
        assert want.keys() == have.keys()
        floor = small * norm(want.values())
        for name, array in want.items():
            found[f"{kind} {name}"] = error(have[name], array, floor)
    return found


def assert_agree(got, expected, tolerance, small=1e-2):
    found = errors(got, expected, small)
    # A gradient that has nearly vanished on its way to the first step was multiplied by that many
    # Jacobians, each with a rounding error.
    vanished = norm(expected.dstate.values()) < 1e-6 * norm(expected.params.values())
    wrong = {
        name: e
        for name, e in found.items()
        if not e <= tolerance * (20 if vanished and name.startswith("dstate") else 1)
    }
    assert wrong == {}


# ---- random problems


def exact(array):
    """Rounds to float32, so that both precisions start from the same numbers."""
    return np.asarray(array).astype(np.float32).astype(np.float64)


def random_params(net, rng, gain=1.0):
    """Uniform in +-gain/sqrt(H) as PyTorch's default; learned skips and biases as well."""
    shapes = {spec.name: spec.shape for spec in net.parameter_specs}
    sizes = {i: getattr(a, "hidden_size", None) for i, a in enumerate(net.layers)}
    params = {}
    for name, shape in shapes.items():
        fan = sizes[int(name.split(".")[0])] or np.prod(shape[1:] or shape)
        bound = 1.0 if name == "0.weight" else gain / np.sqrt(fan)
        params[name] = exact(rng.uniform(-bound, bound, shape))
    for i, layer in enumerate(net.layers):
        if isinstance(layer, gd.LayerNorm):
            for name, middle in (("weight", 1.0), ("bias", 0.0)):
                if f"{i}.{name}" in params:
                    around = rng.uniform(-0.5, 0.5, layer.normalized_shape)
                    params[f"{i}.{name}"] = exact(middle + around)
        skip = getattr(layer, "skip", None)
        if skip is not None and skip.learned:
            name = "skip_scale" if skip.kind == "add" else "skip_logit"
            start = 0.0 if skip.kind == "mix" else skip.value
            params[f"{i}.{name}"] = exact(start + rng.uniform(-0.2, 0.2, layer.hidden_size))
    return params


def random_state(net, batch, rng):
    zero = two_ways.zero_state(net, batch)
    return pipeline.map_states(lambda a: exact(rng.uniform(-0.7, 0.7, a.shape)), zero)


def random_target(net, loss, steps, batch, rng):
    positions = (batch,) if loss.step == "last" else net.positions(steps, batch)
    if loss.kind == "cross_entropy":
        y = rng.integers(net.output_size, size=positions)
        ignored = rng.random(positions) < (0.0 if len(positions) == 1 else 0.2)
        return np.where(ignored, loss.ignore_index, y)
    low = 0.0 if loss.kind == "binary_cross_entropy" else -1.0
    count = net.output_size // losses.per_target(loss)
    y = exact(rng.uniform(low, 1.0, (*positions, count)))
    if loss.nan == "ignore":
        y[rng.random(y.shape) < 0.3] = np.nan
    return y


def random_lengths(steps, batch, rng):
    """Lengths 0, T and others, as far as there are enough sequences."""
    lengths = rng.integers(steps + 1, size=batch)
    lengths[0] = steps
    if batch > 1:
        lengths[1] = 0
    return lengths


def random_reset(steps, batch, rng):
    reset = rng.random((steps, batch)) < 4.0 / steps
    reset[0, batch - 1] = True
    return reset


def spoiled(problem):
    """The same problem with invalid values in the padding: NaN, and tokens and classes that do not
    exist.
    """
    if problem.lengths is None:
        return problem
    late = np.arange(len(problem.x))[:, None] >= problem.lengths
    x, y = problem.x.copy(), problem.y.copy()
    x[late] = -1 if problem.tokens else np.nan
    if problem.loss.step == "all" and problem.net.pool is None:
        y[late] = -7 if y.dtype.kind == "i" else np.nan
    else:
        y[problem.lengths == 0] = -7 if y.dtype.kind == "i" else np.nan
    return replace(problem, x=x, y=y)


def random_problem(
    net,
    loss,
    steps,
    batch,
    *,
    seed,
    tokens=False,
    weight=False,
    lengths=False,
    reset=False,
    state=False,
    gain=1.0,
    train=False,
):
    rng = np.random.default_rng(seed)
    if tokens or net.embedding is not None:
        x = rng.integers(net.vocabulary, size=(steps, batch))
    else:
        x = exact(rng.standard_normal((steps, batch, net.input_size)))
    positions = (batch,) if loss.step == "last" else net.positions(steps, batch)
    problem = Problem(
        net,
        random_params(net, rng, gain),
        x,
        random_target(net, loss, steps, batch, rng),
        loss,
        weight=exact(rng.uniform(0.0, 2.0, positions)) if weight else None,
        lengths=random_lengths(steps, batch, rng) if lengths else None,
        reset=random_reset(steps, batch, rng) if reset else None,
        state=random_state(net, batch, rng) if state else None,
        train=train,
        # Both numbers need more than 32 bits.
        seed=(2**40 + seed, 2**63 + seed) if train else None,
    )
    return spoiled(problem)
