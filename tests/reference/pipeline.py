"""Whole nets, step by step: input or tokens -> layers -> head, forward, backward and tangent.

At steps t >= lengths[b] sequence b keeps its state and does not count: its outputs are zero there
and x is not read. reset[t, b] sets the state of sequence b to zero before step t.
"""

from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from . import between, convolution, philox, skip, structured


@dataclass
class State:
    """past [k, B, H]: the last k outputs h, oldest first (k = 1 without skip); c [B, H] or None.

    Of a convolution: its last k inputs. Its states come behind those of all recurrent layers.
    """

    past: np.ndarray
    c: np.ndarray | None = None

    def arrays(self):
        return [self.past] if self.c is None else [self.past, self.c]


@dataclass
class Masks:
    """Masks of one layer in one step, all [B, H]: which parts of h and c are held, and factors of
    h.
    """

    zone: np.ndarray
    zone_c: np.ndarray
    recurrent: np.ndarray


@dataclass
class LayerStep:
    """The values of one layer in one step.

    h: the input of the recurrent product; old: past[0], the input of the skip connection; cell_h:
    the cell's output after zoneout, to which the skip connection is applied.
    """

    zeroed: np.ndarray
    input: np.ndarray
    h: np.ndarray
    old: np.ndarray
    cell_h: np.ndarray
    saved: object
    masks: Masks


@dataclass
class Step:
    active: np.ndarray  # [B]
    x: np.ndarray  # [B, I], or tokens [B]; zeros where not active
    layers: list[LayerStep] = field(default_factory=list)
    zeroed: np.ndarray | None = None  # [B]
    # Saved by the layers that stand before the recurrent layers and before the head.
    between: list[list] = field(default_factory=list)
    top: np.ndarray | None = None  # [B, H], the head's input


@dataclass
class Trace:
    outputs: np.ndarray  # [T, B, O]
    state: list[State]  # after the last step of every sequence
    steps: list[Step]


@dataclass
class Gradients:
    params: dict
    x: np.ndarray | None  # [T, B, I], None for tokens
    state: list[State]


# ---- reading the description


def cell_of(layer):
    return import_module(f".{type(layer).__name__.lower()}", __package__)


def recurrent_weight(layer, weight, what=""):
    """The matrix that multiplies h in place of weight_hh; what: "_tangent" or "_adjoint" of it."""
    if layer.recurrent != "dense":
        # It is linear in weight_hh, so that its tangent is the same function.
        change = structured.effective_adjoint if what == "_adjoint" else structured.effective
        return change(layer, weight)
    change = getattr(cell_of(layer), f"effective{what}", None)
    return weight if change is None else change(layer, weight)


def recurrent(net):
    """Pairs (place in the Stack, layer) of the recurrent layers."""
    return [(i, a) for i, a in enumerate(net.layers) if hasattr(a, "hidden_size")]


def chains(net):
    """The layers before each recurrent layer and before the head, as lists of (place, layer)."""
    found = [[]]
    for i, a in enumerate(net.layers):
        if hasattr(a, "hidden_size"):
            found.append([])
        elif type(a).__name__ in between.KINDS:
            found[-1].append((i, a))
    return found


def convolutions(net):
    """Pairs (place, layer) of the convolutions that read earlier steps."""
    return [(i, a) for i, a in enumerate(net.layers) if type(a).__name__ == "Conv1d" and past_of(a)]


def past_of(layer):
    return (layer.kernel_size - 1) * layer.dilation


@dataclass
class Pasts:
    """What convolutions carry from step to step, by place: from `before` to `after` a step.

    Backward, `before` has the adjoint of the state after the step, and `after` that before it.
    """

    before: dict
    active: np.ndarray
    zeroed: np.ndarray
    after: dict = field(default_factory=dict)

    @classmethod
    def of(cls, net, states, active, zeroed):
        found = zip(convolutions(net), states[len(recurrent(net)) :], strict=True)
        return cls({place: state for (place, _), state in found}, active, zeroed)

    def states(self, net):
        return [self.after[place] for place, _ in convolutions(net)]

    def rows(self, place, signal):
        """The rows that a step reads; those behind the first are the state after it."""
        if place not in self.before:
            return signal[None]
        before = self.before[place]
        rows = np.concatenate([cleared(self.zeroed, before).past, signal[None]])
        self.after[place] = chosen(self.active, State(rows[1:]), before)
        return rows

    def back(self, place, d_rows):
        """The gradient of the step's own row."""
        if place in self.before:
            after = self.before[place]
            sent = np.concatenate([np.zeros_like(d_rows[:1]), cleared(~self.active, after).past])
            d_rows = d_rows + sent
            new = cleared(self.zeroed, State(d_rows[:-1]))
            self.after[place] = chosen(self.active, new, after)
        return d_rows[-1]


class Rounds:
    """What goes round the runs of layers inside Residuals, while layers are passed in order.

    forward: the signal that comes to the layer at `place`, for values and tangents alike. backward:
    the gradient with respect to it, in the opposite order.
    """

    def __init__(self, net):
        self.spans, self.kept = net.residuals, []

    def forward(self, place, signal):
        for _, end in self.spans:
            if end == place:
                signal = signal + self.kept.pop()
        self.kept += [signal for begin, _ in self.spans if begin == place]
        return signal

    def backward(self, place, d_signal):
        for begin, _ in self.spans:
            if begin == place:
                d_signal = d_signal + self.kept.pop()
        self.kept += [d_signal for _, end in self.spans if end == place]
        return d_signal


def has_embedding(net):
    return hasattr(net.layers[0], "num_embeddings")


def has_head(net):
    return type(net.layers[-1]).__name__ == "Linear"


def own(params, place):
    """The parameters of one layer under their short names."""
    prefix = f"{place}."
    return {name[len(prefix) :]: a for name, a in params.items() if name.startswith(prefix)}


def lag(layer):
    return layer.skip.lag if layer.skip else 1


def one_hot(tokens, size):
    return (tokens[:, None] == np.arange(size)).astype(float)


def zero_state(net, batch, dtype=float):
    return [
        State(
            np.zeros((lag(layer), batch, layer.hidden_size), dtype),
            np.zeros((batch, layer.hidden_size), dtype) if len(layer.cell.states) > 1 else None,
        )
        for _, layer in recurrent(net)
    ] + [
        State(np.zeros((past_of(layer), batch, layer.in_channels), dtype))
        for _, layer in convolutions(net)
    ]


def map_states(function, *states):
    """Applies the function to the corresponding arrays of several states."""
    return [
        State(*(function(*arrays) for arrays in zip(*(s.arrays() for s in layer), strict=True)))
        for layer in zip(*states, strict=True)
    ]


def where(mask, a, b):
    """a for the sequences of mask, otherwise b; arrays are [..., B, H] or [B]."""
    return np.where(mask if a.ndim == 1 else mask[:, None], a, b)


def chosen(mask, a, b):
    """State a of one layer for the sequences of mask, otherwise b."""
    return map_states(lambda p, q: where(mask, p, q), [a], [b])[0]


def cleared(mask, a):
    """State a of one layer, set to zero for the sequences of mask."""
    return map_states(lambda p: where(mask, np.zeros_like(p), p), [a])[0]


# ---- forward


def forward(net, params, x, *, lengths=None, reset=None, state=None, mode=None):
    """Runs all steps from `state` (by default zeros); mode: a philox.Mode, by default
    evaluation.
    """
    mode = mode or philox.Mode()
    n_steps, batch = x.shape[:2]
    starts = [] if state is None else [state[0].past]
    dtype = np.result_type(float, *params.values(), *starts)
    if x.dtype.kind not in "iu":
        dtype = np.result_type(dtype, x)
    now = zero_state(net, batch, dtype) if state is None else state
    outputs, steps = [], []
    for t in range(n_steps):
        active = np.full(batch, True) if lengths is None else t < np.asarray(lengths)
        zeroed = np.full(batch, False) if reset is None else reset[t] & active
        step = Step(active, where(active, x[t], np.zeros_like(x[t])), zeroed=zeroed)
        pasts = Pasts.of(net, now, active, zeroed)
        if has_embedding(net):
            signal = params["0.weight"][step.x]
        elif x.dtype.kind in "iu":
            signal = one_hot(step.x, token_count(net)) * active[:, None]
        else:
            signal = step.x
        after, rounds = [], Rounds(net)
        *inner, before_head = chains(net)
        for (place, layer), before, chain in zip(
            recurrent(net), now[: len(inner)], inner, strict=True
        ):
            signal = chain_forward(chain, params, signal, mode, t, step, rounds, pasts)
            signal = rounds.forward(place, signal)
            masks = layer_masks(layer, place, mode, t, batch)
            new, record = layer_forward(layer, own(params, place), signal, before, zeroed, masks)
            after.append(chosen(active, new, before))
            signal = new.past[-1] + signal if layer.residual else new.past[-1]
            step.layers.append(record)
        signal = chain_forward(before_head, params, signal, mode, t, step, rounds, pasts)
        signal = rounds.forward(len(net.layers) - has_head(net), signal)
        now, step.top = after + pasts.states(net), signal
        output = affine(own(params, len(net.layers) - 1), signal) if has_head(net) else signal
        outputs.append(where(active, output, np.zeros_like(output)))
        steps.append(step)
    return Trace(np.array(outputs), now, steps)


def affine(params, signal):
    return signal @ params["weight"].T + params.get("bias", 0.0)


def token_count(net):
    first = net.layers[0]
    return first.in_channels if type(first).__name__ == "Conv1d" else first.input_size


def chain_forward(chain, params, signal, mode, t, step, rounds, pasts):
    step.between.append([])
    for place, layer in chain:
        signal = rounds.forward(place, signal)
        if type(layer).__name__ == "Conv1d":
            rows = pasts.rows(place, signal)
            signal, saved = convolution.forward(layer, own(params, place), rows)
        else:
            signal, saved = between.forward(layer, place, own(params, place), signal, mode, t)
        step.between[-1].append(saved)
    return signal


def layer_masks(layer, place, mode, t, batch):
    size = (batch, layer.hidden_size)
    return Masks(
        mode.held(layer.zoneout, place, philox.ZONEOUT, t, *size),
        mode.held(getattr(layer, "zoneout_cell", 0.0), place, philox.ZONEOUT_CELL, t, *size),
        mode.factors(layer.recurrent_dropout, place, philox.RECURRENT, 0, *size),
    )


def layer_forward(layer, params, signal, before, zeroed, masks):
    before = cleared(zeroed, before)
    kept, old = before.past[-1], before.past[0]
    h = kept * masks.recurrent
    x_pre = signal @ params["weight_ih"].T + params.get("bias_ih", 0.0)
    weight = recurrent_weight(layer, params.get("weight_hh"))
    h_pre = h @ weight.T + params.get("bias_hh", 0.0)
    cell_state = (kept,) if before.c is None else (kept, before.c)
    (cell_h, *rest), saved = cell_of(layer).forward(layer, x_pre, h_pre, cell_state)
    cell_h = masks.zone * kept + (1 - masks.zone) * cell_h
    rest = [masks.zone_c * before.c + (1 - masks.zone_c) * c for c in rest]
    new_h = skip.forward(layer, params, cell_h, old) if layer.skip else cell_h
    new = State(np.concatenate([before.past[1:], new_h[None]]), *rest)
    return new, LayerStep(zeroed, signal, h, old, cell_h, saved, masks)


# ---- backward


def backward(net, params, trace, d_outputs, d_state=None):
    """Gradients of sum(d_outputs * outputs), plus sum(d_state * state after the last step)."""
    batch = d_outputs.shape[1]
    adjoint = zero_state(net, batch) if d_state is None else d_state
    total = {name: np.zeros_like(a) for name, a in params.items()}
    d_x = []
    for step, d_output in zip(trace.steps[::-1], d_outputs[::-1], strict=True):
        adjoint, d_params, d_x_t = step_backward(net, params, step, d_output, adjoint)
        for name, d in d_params.items():
            total[name] += d
        d_x.append(d_x_t)
    return Gradients(total, None if d_x[0] is None else np.array(d_x[::-1]), adjoint)


def step_backward(net, params, step, d_output, adjoint):
    """The adjoint of the state before the step, and the step's part of the parameters'
    gradients.
    """
    d_params = {}
    d_signal = where(step.active, d_output, np.zeros_like(d_output))
    if has_head(net):
        place = len(net.layers) - 1
        d_params[f"{place}.weight"] = d_signal.T @ step.top
        d_params[f"{place}.bias"] = d_signal.sum(axis=0)
        d_signal = d_signal @ params[f"{place}.weight"]
    rounds = Rounds(net)
    d_signal = rounds.backward(len(net.layers) - has_head(net), d_signal)
    *inner, before_head = zip(chains(net), step.between, strict=True)
    pasts = Pasts.of(net, adjoint, step.active, step.zeroed)
    d_signal = chain_backward(*before_head, params, d_signal, d_params, rounds, pasts)
    before, layers = [], len(recurrent(net))
    for (place, layer), record, after, chain in reversed(
        list(zip(recurrent(net), step.layers, adjoint[:layers], inner, strict=True))
    ):
        inside = own(params, place)
        d_before, d_signal, shares = layer_backward(
            layer, inside, record, step.active, d_signal, after
        )
        before.insert(0, d_before)
        d_params.update({f"{place}.{name}": d for name, d in shares.items()})
        d_signal = rounds.backward(place, d_signal)
        d_signal = chain_backward(*chain, params, d_signal, d_params, rounds, pasts)
    before += pasts.states(net)
    d_x = d_signal
    if step.x.ndim == 1:
        d_x = None
        if has_embedding(net):
            d_params["0.weight"] = one_hot(step.x, net.layers[0].num_embeddings).T @ d_signal
    return before, {name: d for name, d in d_params.items() if name in params}, d_x


def chain_backward(chain, saved, params, d_signal, d_params, rounds, pasts):
    for (place, layer), record in reversed(list(zip(chain, saved, strict=True))):
        if type(layer).__name__ == "Conv1d":
            d_signal = where(pasts.active, d_signal, np.zeros_like(d_signal))
            d_rows, shares = convolution.backward(layer, own(params, place), record, d_signal)
            d_signal = pasts.back(place, d_rows)
        else:
            d_signal, shares = between.backward(layer, own(params, place), record, d_signal)
        d_params.update({f"{place}.{name}": d for name, d in shares.items()})
        d_signal = rounds.backward(place, d_signal)
    return d_signal


def layer_backward(layer, params, record, active, d_signal, after):
    """after: the adjoint of the state after the step. Sequences that are not active pass it on
    unchanged.
    """
    d_new = cleared(~active, after)
    d_h = d_new.past[-1] + d_signal  # d_signal is zero where not active
    d_cell_h, d_old, shares = d_h, np.zeros_like(d_h), {}
    if layer.skip:
        d_cell_h, d_old, shares = skip.backward(layer, params, record.cell_h, record.old, d_h)
    masks = record.masks
    d_held, d_cell_h = masks.zone * d_cell_h, (1 - masks.zone) * d_cell_h
    d_cell = (d_cell_h,) if d_new.c is None else (d_cell_h, (1 - masks.zone_c) * d_new.c)
    d_x_pre, d_h_pre, (d_h_before, *rest) = cell_of(layer).backward(layer, record.saved, d_cell)
    shares |= {
        "weight_ih": d_x_pre.T @ record.input,
        "weight_hh": recurrent_weight(layer, d_h_pre.T @ record.h, "_adjoint"),
        "bias_ih": d_x_pre.sum(axis=0),
        "bias_hh": d_h_pre.sum(axis=0),
    }
    d_past = np.concatenate([np.zeros_like(d_h)[None], d_new.past[:-1]])
    d_past[0] += d_old
    weight = recurrent_weight(layer, params.get("weight_hh"))
    d_past[-1] += d_h_before + d_held + (d_h_pre @ weight) * masks.recurrent
    rest = [d + masks.zone_c * d_new.c for d in rest]
    d_before = chosen(active, cleared(record.zeroed, State(d_past, *rest)), after)
    d_input = d_x_pre @ params["weight_ih"]
    return d_before, d_input + d_signal if layer.residual else d_input, shares


# ---- tangent


def tangent(net, params, trace, t_params, t_x=None, t_state=None):
    """Tangents of outputs and of the state after the last step, for a trace made by forward."""
    batch = trace.outputs.shape[1]
    now = zero_state(net, batch) if t_state is None else t_state
    t_outputs = []
    for t, step in enumerate(trace.steps):
        if has_embedding(net):
            t_signal = t_params["0.weight"][step.x]
        elif step.x.ndim == 1:
            t_signal = np.zeros((batch, token_count(net)))
        elif t_x is None:
            t_signal = np.zeros_like(step.x)
        else:
            t_signal = where(step.active, t_x[t], np.zeros_like(t_x[t]))
        after, rounds = [], Rounds(net)
        *inner, before_head = zip(chains(net), step.between, strict=True)
        pasts = Pasts.of(net, now, step.active, step.zeroed)
        for (place, layer), record, before, chain in zip(
            recurrent(net), step.layers, now[: len(inner)], inner, strict=True
        ):
            t_signal = chain_tangent(*chain, params, t_params, t_signal, rounds, pasts)
            t_signal = rounds.forward(place, t_signal)
            new = layer_tangent(
                layer, own(params, place), own(t_params, place), record, t_signal, before
            )
            after.append(chosen(step.active, new, before))
            t_signal = new.past[-1] + t_signal if layer.residual else new.past[-1]
        t_signal = chain_tangent(*before_head, params, t_params, t_signal, rounds, pasts)
        t_signal = rounds.forward(len(net.layers) - has_head(net), t_signal)
        now, t_output = after + pasts.states(net), t_signal
        if has_head(net):
            place = len(net.layers) - 1
            head, t_head = own(params, place), own(t_params, place)
            t_output = t_signal @ head["weight"].T + affine(t_head, step.top)
        t_outputs.append(where(step.active, t_output, np.zeros_like(t_output)))
    return np.array(t_outputs), now


def chain_tangent(chain, saved, params, t_params, t_signal, rounds, pasts):
    for (place, layer), record in zip(chain, saved, strict=True):
        t_signal = rounds.forward(place, t_signal)
        inside = own(params, place), own(t_params, place)
        if type(layer).__name__ == "Conv1d":
            t_rows = pasts.rows(place, t_signal)
            t_signal = convolution.tangent(layer, *inside, record, t_rows)
        else:
            t_signal = between.tangent(layer, *inside, record, t_signal)
    return t_signal


def layer_tangent(layer, params, t_params, record, t_signal, before):
    before = cleared(record.zeroed, before)
    masks = record.masks
    t_kept, t_old = before.past[-1], before.past[0]
    t_h = t_kept * masks.recurrent
    t_x_pre = (
        t_signal @ params["weight_ih"].T
        + record.input @ t_params["weight_ih"].T
        + t_params.get("bias_ih", 0.0)
    )
    t_h_pre = (
        t_h @ recurrent_weight(layer, params.get("weight_hh")).T
        + record.h @ recurrent_weight(layer, t_params.get("weight_hh"), "_tangent").T
        + t_params.get("bias_hh", 0.0)
    )
    t_cell_state = (t_kept,) if before.c is None else (t_kept, before.c)
    t_cell_h, *rest = cell_of(layer).tangent(layer, record.saved, t_x_pre, t_h_pre, t_cell_state)
    t_cell_h = masks.zone * t_kept + (1 - masks.zone) * t_cell_h
    rest = [masks.zone_c * before.c + (1 - masks.zone_c) * t for t in rest]
    if layer.skip:
        t_cell_h = skip.tangent(layer, params, t_params, record.cell_h, record.old, t_cell_h, t_old)
    return State(np.concatenate([before.past[1:], t_cell_h[None]]), *rest)
