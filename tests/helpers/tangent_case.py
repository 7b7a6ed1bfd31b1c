"""Directions of a problem, and their tangents by the reference and by gradcore in float64."""

from dataclasses import replace

import numpy as np

import gradcore as gd
from gradcore import jacobian
from overriding import override
from problem import by_direction, core_arguments, core_state, exact, named
from reference import pipeline, two_ways


def directions(problem, count, rng, *, params=True, x=True, state=True):
    """Lists of K directions: dicts of parameters, arrays like x, reference states; None means zero.

    Values are exact in float32; those of x are NaN in the padding.
    """
    late = np.zeros(problem.x.shape[:2], bool)
    if problem.lengths is not None:
        late = np.arange(len(problem.x))[:, None] >= problem.lengths
    d_params = d_x = d_state = None
    if params:
        d_params = [
            {name: exact(rng.standard_normal(a.shape)) for name, a in problem.params.items()}
            for _ in range(count)
        ]
    if x and not problem.tokens:
        d_x = [
            np.where(late[..., None], np.nan, exact(rng.standard_normal(problem.x.shape)))
            for _ in range(count)
        ]
    if state:
        zero = two_ways.zero_state(problem.net, problem.x.shape[1])
        d_state = [
            pipeline.map_states(lambda a: exact(rng.standard_normal(a.shape)), zero)
            for _ in range(count)
        ]
    return d_params, d_x, d_state


def by_reference(problem, along):
    """(outputs' tangents [K,T,B,O], [final state's tangents by name])."""
    trace = two_ways.forward(
        problem.net, problem.params, problem.x, state=problem.state, mode=problem.mode,
        **problem.masks,
    )  # fmt: skip
    d_params, d_x, d_state = along
    count = len(next(d for d in along if d is not None))
    still = {name: np.zeros_like(a) for name, a in problem.params.items()}
    outputs, states = [], []
    for k in range(count):
        t_x = None
        if not problem.tokens:
            t_x = np.zeros(problem.x.shape) if d_x is None else np.nan_to_num(d_x[k])
        moved, state = two_ways.tangent(
            problem.net,
            problem.params,
            trace,
            still if d_params is None else d_params[k],
            t_x,
            None if d_state is None else d_state[k],
        )
        outputs.append(moved)
        states.append(named(state))
    return np.array(outputs), states


def flat_params(problem, d_params, dtype):
    rows = []
    for direction in d_params:
        params = gd.Params(problem.net, np.empty(problem.net.n_parameters, dtype))
        for name, array in direction.items():
            params[name] = array.astype(dtype)
        rows.append(params)
    return rows


def stacked(states):
    """States of K directions as one state whose arrays have a leading axis K."""

    def join(layers):
        first = layers[0]

        def both(name):
            if getattr(first, name) is None:
                return None
            return np.stack([getattr(a, name) for a in layers])

        reverse = None if first.reverse is None else join([a.reverse for a in layers])
        return gd.LayerState(both("h"), both("c"), both("skip"), reverse)

    return tuple(join(layers) for layers in zip(*states, strict=True))


def core_directions(problem, along, dtype):
    """The keyword arguments dparams, dx and dstate."""
    d_params, d_x, d_state = along
    keywords = {}
    if d_params is not None:
        keywords["dparams"] = flat_params(problem, d_params, dtype)
    if d_x is not None:
        keywords["dx"] = np.array(d_x, dtype)
    if d_state is not None:
        keywords["dstate"] = stacked(
            [core_state(replace(problem, state=state), dtype) for state in d_state]
        )
    return keywords


def by_core(problem, along, dtype="float64", **how):
    arguments, keywords = core_arguments(problem, dtype)
    with override(exact_threads=True):
        given = core_directions(problem, along, dtype)
        return jacobian.jvp(*arguments, **keywords, **given, **how)


def true_outputs(r):
    # Behind a Pool there is one exponent, and no axis of time.
    pooled = r.d_outputs.ndim == 3
    exponents = r.d_outputs_exponent if pooled else r.d_outputs_exponent[None, :, None, None]
    return np.ldexp(r.d_outputs.astype(float), exponents)


def true_state(net, r, k):
    """The tangents of the final state along direction k, by name."""
    arrays = {}
    for i, (layer, state) in enumerate(by_direction(net, r.dstate)):
        only_last = getattr(layer, "skip", state.skip) is None
        past = state.h[:, None] if only_last else state.skip
        scale = int(r.dstate_exponent[i])
        arrays[f"{i}.past"] = np.ldexp(past[k].astype(float), scale)
        if state.c is not None:
            arrays[f"{i}.c"] = np.ldexp(state.c[k].astype(float), scale)
    return arrays
