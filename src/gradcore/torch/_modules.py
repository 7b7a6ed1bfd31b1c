"""RNN, LSTM and GRU with the constructor, names and behaviour of torch.nn's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import cells
from .._memory import budget_bytes
from ..errors import ArgumentError, DTypeError, ShapeError
from ..layers import Dropout, Recurrent, Skip, Stack
from ..params import Grads
from ._function import apply
from ._numbers import Call

__all__ = ["GRU", "LSTM", "RNN", "Layer"]


class Layer(nn.RNNBase):
    """What gradcore adds to a recurrent layer of torch.nn; RNN, LSTM and GRU are the layers.

    skip: a gradcore.Skip, a connection through time on every layer and direction; what it learns is
    a parameter skip_scale_l0 or skip_logit_l0 [H] beside weight_hh_l0. With a lag of k the state
    holds the last k outputs: h_0 and h_n are (D*num_layers, k, B, H), oldest first.
    memory: the budget of a forward and backward pass in bytes, or "64MB", "full", None: 256 MB.
    forward(..., lengths=): (B,) integers: steps from lengths[b] on hold the state, and their
    outputs are zero; in any order, without packing.

    The gradient goes back through all steps, in float32 or float64, on the CPU, in
    torch.get_num_threads() threads or as many as help. Values that are not finite raise
    gradcore.NonFiniteError with layer, step and sequence, where torch.nn goes on with NaN.
    proj_size and dropout=1 are refused.
    """

    _cell: type[Recurrent]
    skip: Skip | None
    memory: int | str | None

    def __init__(
        self, *args: Any, skip: Skip | None = None, memory: int | str | None = None, **kwargs: Any
    ) -> None:
        if skip is not None and not isinstance(skip, Skip):
            raise DTypeError(f"skip must be a gradcore.Skip or None; got {type(skip).__name__}.")
        super().__init__(*args, **kwargs)
        self._become(skip, memory)

    def _become(self, skip: Skip | None, memory: int | str | None) -> None:
        """Makes a layer of torch.nn, whose parameters stay as they are, one of these."""
        budget_bytes(memory)
        if self.proj_size:
            raise ArgumentError(
                f"proj_size must be 0; got {self.proj_size}. gradcore has no output projection: "
                "use torch.nn's layer, or a Linear behind this one."
            )
        if self.dropout == 1:
            raise ArgumentError("dropout must be below 1: all of what the next layer reads is 0.")
        self.skip, self.memory = skip, memory
        # Gradients of the last ways back that left the range of the dtype, for clip_grad_norm_.
        self._beyond: list[Grads] = []
        if skip is not None and skip.learned:
            name = "skip_scale" if skip.kind == "add" else "skip_logit"
            for layer, names in enumerate(self._all_weights):
                suffix = "_reverse" if names[0].endswith("_reverse") else ""
                own = f"{name}_l{layer // self._directions}{suffix}"
                like = getattr(self, names[0])
                names.append(own)
                self._flat_weights_names.insert(self._flat_weights_names.index(names[-2]) + 1, own)
                self.register_parameter(own, nn.Parameter(like.new_empty(self.hidden_size)))
            self._init_flat_weights()
            self._reset_skip()

    def reset_parameters(self) -> None:
        """torch.nn's: uniform in +-1/sqrt(H); a learned skip connection starts at its value."""
        super().reset_parameters()
        if getattr(self, "skip", None) is not None:
            self._reset_skip()

    def _reset_skip(self) -> None:
        assert self.skip is not None
        value = torch.tensor(float(self.skip.value or 0.0), dtype=torch.float64)
        start = value if self.skip.kind == "add" else torch.logit(value)
        for names in self._all_weights:
            if names[-1].startswith("skip_"):
                nn.init.constant_(getattr(self, names[-1]), float(start))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def stack(self) -> Stack:
        """The gradcore.Stack that computes this layer; its parameters are in the same order."""
        options: dict[str, Any] = {"bias": self.bias, "bidirectional": self.bidirectional}
        options["skip"] = self.skip
        if self.mode.startswith("RNN"):
            options["nonlinearity"] = self.mode[4:].lower()
        layers: list[Any] = []
        width = self.input_size
        for index in range(self.num_layers):
            if index and self.dropout:
                layers.append(Dropout(self.dropout))
            layers.append(self._cell(width, self.hidden_size, **options))
            width = self.hidden_size * self._directions
        return Stack(*layers)

    def parameter_names(self) -> list[str]:
        """In the order of the Stack's parameters."""
        return [name for names in self._all_weights for name in names]

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.skip is not None:
            text += f", skip={self.skip}"
        return text if self.memory is None else f"{text}, memory={self.memory!r}"

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None) -> Any:  # noqa: A002
        """Outputs and the last state, as torch.nn's layer."""
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ArgumentError("lengths must be None for a PackedSequence, which has its own.")
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D tensor "
                "instead"
            )
        batched = input.dim() == 3
        states = self._states(hx, 3 if batched else 2)
        x = input
        if not batched:
            x = input.unsqueeze(1)
            states = None if states is None else [state.unsqueeze(-2) for state in states]
        elif self.batch_first:
            x = input.transpose(0, 1)
        self._check(x, states)
        outputs, end = self._run(x, states, lengths)
        if not batched:
            outputs, end = outputs.squeeze(1), [state.squeeze(-2) for state in end]
        elif self.batch_first:
            outputs = outputs.transpose(0, 1)
        return outputs, self._given_back(end)

    def _packed(self, packed: PackedSequence, hx: Any) -> Any:
        """Padded, run with lengths, packed again: the cost is that of the padded batch."""
        data, batch_sizes, order, back = packed
        states = self._states(hx, 3)
        if data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
        batch = int(batch_sizes[0])
        there = torch.arange(batch) < batch_sizes[:, None]
        lengths = there.sum(0)
        x = data.new_zeros((*there.shape, data.shape[1])).index_put((there,), data)
        if states is not None and order is not None:
            states = [state.index_select(-2, order) for state in states]
        self._check(x, states)
        outputs, end = self._run(x, states, None if bool(there.all()) else lengths)
        if back is not None:
            end = [state.index_select(-2, back) for state in end]
        return PackedSequence(outputs[there], batch_sizes, order, back), self._given_back(end)

    def _states(self, hx: Any, dims: int) -> list[Tensor] | None:
        """h, or h and c; with a lag the dimension of the past outputs comes second."""
        if hx is None:
            return None
        states = list(hx) if self._cell is cells.LSTM else [hx]
        expected = [dims + (self._lag > 1), dims][: len(states)]
        found = [state.dim() for state in states]
        if found != expected:
            what = "batched 3-D" if dims == 3 else "unbatched 2-D"
            if self._cell is cells.LSTM:
                raise RuntimeError(
                    f"For {what} input, hx and cx should also be {dims}-D but got "
                    f"({found[0]}-D, {found[1]}-D) tensors"
                )
            raise RuntimeError(
                f"For {what} input, hx should also be {dims}-D but got {found[0]}-D tensor"
            )
        return states

    @property
    def _lag(self) -> int:
        return 1 if self.skip is None else self.skip.lag

    def _check(self, x: Tensor, states: list[Tensor] | None) -> None:
        weight = getattr(self, self._all_weights[0][0])
        if x.device.type != "cpu" or weight.device.type != "cpu":
            raise ArgumentError(
                f"gradcore.torch runs on the CPU; the input is on {x.device}, the weights are on "
                f"{weight.device}. Use torch.nn's layer there."
            )
        if weight.dtype not in (torch.float32, torch.float64):
            raise DTypeError(
                f"gradcore.torch has float32 and float64; the weights are {weight.dtype}. Convert "
                "the layer with .float()."
            )
        # torch.nn's own checks, whose messages people know.
        padded = x.transpose(0, 1) if self.batch_first else x
        self.check_input(padded, None)
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if states is None:
            return
        size = (self.num_layers * self._directions, x.shape[1], self.hidden_size)
        first = (size[0], self._lag, *size[1:]) if self._lag > 1 else size
        for index, (state, expected) in enumerate(zip(states, (first, size), strict=False)):
            name = f"hidden[{index}]" if self._cell is cells.LSTM else "hidden"
            self.check_hidden_size(state, expected, f"Expected {name} size {{}}, got {{}}")
            if state.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
                raise ValueError(
                    f"hidden state dtype ({state.dtype}) does not match weight dtype "
                    f"({weight.dtype}). Convert it with .to({weight.dtype})."
                )

    def _run(
        self, x: Tensor, states: list[Tensor] | None, lengths: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs (T, B, O) and states of x (T, B, I)."""
        weights = [getattr(self, name) for name in self.parameter_names()]
        dtype, batch = weights[0].dtype, x.shape[1]
        if torch.is_autocast_enabled("cpu"):
            x = x.to(dtype)
            states = None if states is None else [state.to(dtype) for state in states]
        if batch == 0:
            return self._of_nothing(x, weights)
        with torch.autocast("cpu", enabled=False):
            flat = torch.cat([weight.reshape(-1) for weight in weights])
            state = None if states is None else self._flat(states)
            call = self._call(x, lengths, flat, state)
            outputs, end = apply(call, flat, x.contiguous(), state)
        return outputs, self._split(end, batch)

    def _call(self, x: Tensor, lengths: Any, flat: Tensor, state: Tensor | None) -> Call:
        random = self.training and self.dropout > 0 and self.num_layers > 1
        wanted = []
        if torch.is_grad_enabled():
            parts = {"params": flat, "x": x, "state": state}
            wanted = [name for name, part in parts.items() if part is not None and part.requires_grad]
        return Call(
            self.stack(),
            _lengths(lengths, *x.shape[:2]),
            train=random,
            seed=int(torch.randint(2**62, ())) if random else 0,
            memory=self.memory,
            wanted=frozenset(wanted),
            beyond=self._fresh_beyond(),
        )

    def _fresh_beyond(self) -> list[Grads]:
        """Where overflowing gradients are kept: those of before count while they are in .grad."""
        if self._beyond:
            grads = [weight.grad for weight in self.parameters() if weight.grad is not None]
            if all(bool(torch.isfinite(grad).all()) for grad in grads):
                self._beyond.clear()
        return self._beyond

    def _flat(self, states: list[Tensor]) -> Tensor:
        """Per layer and direction the past outputs, then c."""
        rows = self.num_layers * self._directions
        parts = [state.reshape(rows, -1) for state in states]
        return torch.cat(parts, 1).reshape(-1)

    def _split(self, end: Tensor, batch: int) -> list[Tensor]:
        rows = self.num_layers * self._directions
        planes = end.reshape(rows, -1, batch, self.hidden_size)
        h = planes[:, : self._lag] if self._lag > 1 else planes[:, 0]
        if self._cell is not cells.LSTM:
            return [h.contiguous()]
        return [h.contiguous(), planes[:, self._lag].contiguous()]

    def _of_nothing(self, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A batch of no sequences, whose gradients are zero."""
        zero = x.sum() + torch.stack([weight.sum() for weight in weights]).sum() * 0
        width = self.hidden_size * self._directions
        outputs = zero + x.new_zeros((x.shape[0], 0, width))
        size = (self.num_layers * self._directions, 0, self.hidden_size)
        first = (size[0], self._lag, *size[1:]) if self._lag > 1 else size
        count = 2 if self._cell is cells.LSTM else 1
        return outputs, [zero + x.new_zeros(shape) for shape in (first, size)[:count]]

    def _given_back(self, states: list[Tensor]) -> Any:
        return tuple(states) if self._cell is cells.LSTM else states[0]


class RNN(Layer, nn.RNN):
    __doc__ = f"""torch.nn.RNN on gradcore's engine.\n\n{Layer.__doc__}"""
    _cell = cells.RNN


class LSTM(Layer, nn.LSTM):
    __doc__ = f"""torch.nn.LSTM on gradcore's engine.\n\n{Layer.__doc__}"""
    _cell = cells.LSTM


class GRU(Layer, nn.GRU):
    __doc__ = f"""torch.nn.GRU on gradcore's engine.\n\n{Layer.__doc__}"""
    _cell = cells.GRU


def _lengths(lengths: Any, steps: int, batch: int) -> Any:
    if lengths is None:
        return None
    found = torch.as_tensor(lengths)
    if found.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise DTypeError(f"lengths must be integers; got {found.dtype}.")
    if found.shape != (batch,):
        raise ShapeError(
            f"lengths must have shape ({batch},), one per sequence; got {tuple(found.shape)}."
        )
    if bool((found < 0).any()) or bool((found > steps).any()):
        raise ArgumentError(
            f"lengths must be in 0..T = 0..{steps}; got {found.min()} to {found.max()}."
        )
    return found.to(torch.int64).contiguous().numpy()
