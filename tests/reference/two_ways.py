"""Nets with bidirectional layers, as pieces that `pipeline` runs one after the other over all
steps.

A direction that reads time backward is the ordinary pipeline on reversed sequences, each within its
own length. States are lists with one entry per layer and direction. A net without such layers is
one piece. A Pool is a piece, too: what comes behind it has one step, and outputs are then [B, O].
"""

from dataclasses import dataclass, field, replace

import numpy as np

from . import philox, pipeline, pool


@dataclass
class Piece:
    """Consecutive layers of a net, or one direction of a layer. end: the suffix of its parameter
    names.
    """

    layers: list
    places: list
    end: str = ""
    directed: bool = False
    residuals: list = field(default_factory=list)  # as Stack.residuals, of the piece's own layers

    @property
    def pool(self):
        """The Pool that the piece is, or None."""
        return self.layers[0] if type(self.layers[0]).__name__ == "Pool" else None

    def params(self, whole):
        """The piece's part of the net's parameters, under the piece's own names."""
        return {
            f"{i}.{name.removesuffix('_reverse')}": a
            for i, place in enumerate(self.places)
            for name, a in pipeline.own(whole, place).items()
            if name.endswith("_reverse") == bool(self.end) or not self.directed
        }

    def names(self, own):
        """Gradients of the piece under the net's names."""
        return {
            f"{self.places[int(name.split('.')[0])]}.{name.split('.')[1]}{self.end}": a
            for name, a in own.items()
        }


@dataclass(frozen=True)
class PieceMode(philox.Mode):
    """The mode of a call as it applies to a piece, with the piece's own places and order of
    steps.
    """

    places: tuple = ()
    reverse: bool = False
    last: tuple = ()  # the last step of each sequence

    def counter(self, n, b, t, place, kind):
        if self.reverse:
            t = t if kind == philox.RECURRENT else max(self.last[b] - t, 0)
            kind += 4
        return super().counter(n, b, t, self.places[place], kind)


@dataclass
class Trace:
    outputs: np.ndarray
    state: list
    pieces: list  # (pieces of one stage, their traces, their lengths); of a Pool its rows as trace
    pooled: bool


def stages(net):
    """The net as a list of stages: [piece], or [forward, backward] for a bidirectional layer."""
    found, pending = [], Piece([], [])
    for place, layer in enumerate(net.layers):
        pools = type(layer).__name__ == "Pool"
        if not pools and not getattr(layer, "bidirectional", False):
            pending.layers.append(layer)
            pending.places.append(place)
            continue
        if pending.layers:
            found.append([closed(pending, net)])
        pending = Piece([], [])
        if pools:
            found.append([Piece([layer], [place])])
            continue
        one = replace(layer, bidirectional=False, residual=False)
        found.append([Piece([one], [place], end, True) for end in ("", "_reverse")])
    return [*found, [closed(pending, net)]] if pending.layers else found


def closed(piece, net):
    """The piece with the Residuals of its layers; none of them reaches beyond a piece."""
    first = piece.places[0]
    piece.residuals = [
        (begin - first, end - first) for begin, end in net.residuals if begin in piece.places
    ]
    return piece


def residual(net, stage):
    return len(stage) == 2 and net.layers[stage[0].places[0]].residual


def turned(a, lengths):
    """a [T, B, ...] with the first lengths[b] steps of every sequence in reverse order."""
    if a is None:
        return None
    result = a.copy()
    for b in range(a.shape[1]):
        n = len(a) if lengths is None else lengths[b]
        result[:n, b] = a[:n, b][::-1]
    return result


def pieces(net):
    return [piece for stage in stages(net) for piece in stage]


def zero_state(net, batch):
    return joined(net, [pipeline.zero_state(piece, batch) for piece in pieces(net)])


def joined(net, parts):
    """The states of the pieces as that of the net: of recurrent layers, then of convolutions."""
    counts = [len(pipeline.recurrent(piece)) for piece in pieces(net)]
    layers = [s for part, n in zip(parts, counts, strict=True) for s in part[:n]]
    return layers + [s for part, n in zip(parts, counts, strict=True) for s in part[n:]]


def divided(net, state):
    """The state of the net as one list per piece."""
    total = sum(len(pipeline.recurrent(piece)) for piece in pieces(net))
    layers, windows = list(state[:total]), list(state[total:])
    parts = []
    for piece in pieces(net):
        n, k = len(pipeline.recurrent(piece)), len(pipeline.convolutions(piece))
        parts.append(layers[:n] + windows[:k])
        layers, windows = layers[n:], windows[k:]
    return parts


def forward(net, params, x, *, lengths=None, reset=None, state=None, mode=None):
    batch = x.shape[1]
    mode = mode or philox.Mode()
    last = tuple(int(n) - 1 for n in (np.full(batch, len(x)) if lengths is None else lengths))
    states = iter(divided(net, zero_state(net, batch) if state is None else state))
    signal, record, after = x, [], []
    for stage in stages(net):
        if stage[0].pool:
            after.append(next(states))
            record.append((stage, [signal], lengths))
            own = pipeline.own(params, stage[0].places[0])
            signal = pool.forward(stage[0].pool, own, signal, lengths)[None]
            lengths = None if lengths is None else np.minimum(lengths, 1)
            continue
        traces = []
        for piece in stage:
            turn = (lambda a, n=lengths: turned(a, n)) if piece.end else (lambda a: a)
            trace = pipeline.forward(
                piece,
                piece.params(params),
                turn(signal),
                lengths=lengths,
                reset=turn(reset),
                state=next(states) or None,
                mode=PieceMode(
                    mode.train, mode.seed, mode.step, tuple(piece.places), bool(piece.end), last
                ),
            )
            after.append(trace.state)
            traces.append(trace)
        outputs = [t.outputs for t in traces]
        if len(stage) == 2:
            outputs = [outputs[0], turned(outputs[1], lengths)]
        entered = signal
        signal = np.concatenate(outputs, axis=2)
        if residual(net, stage):
            signal = signal + masked(entered, lengths)
        record.append((stage, traces, lengths))
    pooled = any(stage[0].pool for stage in stages(net))
    return Trace(signal[0] if pooled else signal, joined(net, after), record, pooled)


def masked(a, lengths):
    """a [T, B, ...], set to zero after the ends of the sequences."""
    if lengths is None:
        return a
    late = np.arange(len(a))[:, None] >= np.asarray(lengths)
    return np.where(late[..., None], 0.0, a)


def backward(net, params, trace, d_outputs):
    total, d_state = {}, []
    d_signal = d_outputs[None] if trace.pooled else d_outputs
    for stage, traces, lengths in reversed(trace.pieces):
        if stage[0].pool:
            own = pipeline.own(params, stage[0].places[0])
            d_signal, shares = pool.backward(stage[0].pool, own, traces[0], lengths, d_signal[0])
            total |= {f"{stage[0].places[0]}.{name}": d for name, d in shares.items()}
            d_state = [[], *d_state]
            continue
        d_inputs, d_states, first = [], [], 0
        for piece, one in zip(stage, traces, strict=True):
            width = one.outputs.shape[2]
            d_own = masked(d_signal[..., first : first + width], lengths)
            first += width
            if piece.end:
                d_own = turned(d_own, lengths)
            found = pipeline.backward(piece, piece.params(params), one, d_own)
            total |= piece.names(found.params)
            d_states.append(found.state)
            turn = piece.end and found.x is not None
            d_inputs.append(turned(found.x, lengths) if turn else found.x)
        d_entered = None if d_inputs[0] is None else sum(d_inputs)
        if residual(net, stage):
            d_entered = d_entered + masked(d_signal, lengths)
        d_signal = d_entered
        d_state = d_states + d_state
    return pipeline.Gradients(total, d_signal, joined(net, d_state))


def tangent(net, params, trace, t_params, t_x=None, t_state=None):
    batch = trace.outputs.shape[-2]
    states = iter(divided(net, zero_state(net, batch) if t_state is None else t_state))
    t_signal, after = t_x, []
    for stage, traces, lengths in trace.pieces:
        if stage[0].pool:
            after.append(next(states))
            own, t_own = (pipeline.own(p, stage[0].places[0]) for p in (params, t_params))
            t_signal = pool.tangent(stage[0].pool, own, t_own, traces[0], lengths, t_signal)[None]
            continue
        outputs = []
        for piece, one in zip(stage, traces, strict=True):
            t_own = turned(t_signal, lengths) if piece.end else t_signal
            t_out, t_after = pipeline.tangent(
                piece, piece.params(params), one, piece.params(t_params), t_own, next(states)
            )
            outputs.append(turned(t_out, lengths) if piece.end else t_out)
            after.append(t_after)
        entered, t_signal = t_signal, np.concatenate(outputs, axis=2)
        if residual(net, stage):
            t_signal = t_signal + masked(entered, lengths)
    return t_signal[0] if trace.pooled else t_signal, joined(net, after)
