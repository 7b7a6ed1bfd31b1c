"""What gradcore adds to the recurrent layers of torch.nn, whatever their cell is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._base.memory import budget_bytes
from .._net.initial import chrono_bias
from .._net.layers import Skip
from .._net.stack import Params, Stack
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from . import _compiled, _modes
from ._beyond import Overflow
from ._describe import Description
from ._function import apply, each
from ._numbers import PARTS, Call, checked_lengths, copied_reset

__all__ = ["PUT_BACK", "Layer", "Seen"]

# What every refusal of something that torch.nn's layers can do says.
PUT_BACK = (
    "gradcore.torch.revert(model) puts torch.nn's layers back in place, with the same weights."
)


@dataclass
class Seen:
    """The last call of a layer and the gradient by its outputs; diagnose() reads it."""

    call: Call | None = None
    flat: Tensor | None = None
    x: Tensor | None = None
    state: Tensor | None = None
    d_outputs: Tensor | None = None

    def note(
        self, call: Call, flat: Tensor, x: Tensor, state: Tensor | None, outputs: Tensor
    ) -> None:
        self.call, self.flat, self.x = call, flat.detach(), x.detach()
        self.state = None if state is None else state.detach()
        self.d_outputs = None
        if outputs.requires_grad:
            outputs.register_hook(self._arrived)  # type: ignore[no-untyped-call]

    def _arrived(self, gradient: Tensor) -> None:
        self.d_outputs = gradient.detach()


# The layers are not subclasses of torch.nn.RNN, LSTM and GRU, because torch.compile refuses all
# subclasses of these.
class Layer(nn.RNNBase):
    """Base class of RNN, LSTM, GRU, AntisymmetricRNN and Recurrent: what gradcore adds to torch.nn.

    skip: a gradcore.Skip, a connection through time in every layer and direction. If its strength
    is learned, it is a parameter skip_scale_l0 or skip_logit_l0 [H] beside weight_hh_l0. With a lag
    of k > 1 the state has the last k outputs: h_0 and h_n are (D*num_layers, k, B, H), oldest
    first, where D is 2 for bidirectional layers and 1 otherwise.
    memory: the budget of a forward and backward pass: bytes, text such as "64MB", "full" for no
    limit, or None for 256 MB.
    forward(..., lengths=): (B,) integers. From step lengths[b] on the state does not change, and
    outputs are zero. The lengths may have any order, and sequences need not be packed.
    forward(..., reset=): booleans in the shape of the input without its last axis: (T, B), (B, T)
    with batch_first, (T,) without a batch. True sets the state of the sequence to zero before that
    step, in every layer and direction; the state is h_0 before the first step. A PackedSequence
    takes neither lengths nor reset.

    The gradient goes back through all steps, in float32 or float64, on the CPU, with at most
    torch.get_num_threads() threads. Values that are not finite raise gradcore.NonFiniteError with
    layer, step and sequence, where torch.nn continues with NaN. proj_size is refused.
    """

    skip: Skip | None
    memory: int | str | None
    _mode: str
    # The layer as JSON where its cell is none of torch.nn's, see Recurrent.
    _own = ""
    # torch.nn's layer with the same parameters, if there is one.
    _origin: type[nn.RNNBase] | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        skip: Skip | None = None,
        memory: int | str | None = None,
    ) -> None:
        if skip is not None and not isinstance(skip, Skip):
            raise DTypeError(f"skip must be a gradcore.Skip or None; got {type(skip).__name__}.")
        super().__init__(
            self._mode,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self._become(skip, memory)

    def _become(self, skip: Skip | None, memory: int | str | None) -> None:
        """Completes a layer of torch.nn to one of gradcore; existing parameters do not change."""
        budget_bytes(memory)
        if self.proj_size:
            raise ArgumentError(
                f"proj_size must be 0; got {self.proj_size}. gradcore has no output projection: "
                "use a Linear after this layer, or torch.nn's layer, which gradcore.torch.convert "
                "and revert leave alone."
            )
        self.skip, self.memory = skip, memory
        self._overflow = Overflow()
        # The last call, recorded while diagnose() runs; None otherwise.
        self._seen: Seen | None = None
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
        """Initialises as torch.nn does, uniformly in +-1/sqrt(H); a learned skip at Skip.value."""
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

    @torch.no_grad()
    def init_chrono_(self, longest: float) -> None:
        """Sets the biases so that units remember for up to about `longest` steps.

        See gradcore.init.chrono_bias; PyTorch's generator draws the values. Raises ArgumentError
        for a layer without memory gates or without biases, and unless longest > 2.
        """
        if self.stack().recurrent[0].cell.memory_gate is None or not self.bias:
            raise ArgumentError(
                "init_chrono_ needs an LSTM or GRU with biases, which hold its memory gates open, "
                "or a cell of yours with a memory_gate and biases; "
                f"this is {self!r}."
            )
        weights = [getattr(self, name) for name in self.parameter_names()]
        flat = torch.cat([weight.reshape(-1) for weight in weights]).numpy()
        seed = int(torch.randint(2**62, ()))
        chrono_bias(Params(self.stack(), flat), longest, np.random.default_rng(seed))
        pieces = torch.split(torch.from_numpy(flat), [weight.numel() for weight in weights])
        for weight, piece in zip(weights, pieces, strict=True):
            weight.copy_(piece.view_as(weight))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def stack(self) -> Stack:
        """The gradcore.Stack that computes this layer, with its parameters in the same order."""
        return self._description().stack()

    def _description(self) -> Description:
        skip = self.skip
        return Description(
            self.mode,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.bidirectional,
            self.dropout if self.dropout < 1 else 0.0,
            "" if skip is None else skip.kind,
            1 if skip is None else skip.lag,
            0.0 if skip is None or skip.value is None else skip.value,
            skip is not None and skip.learned,
            *self._flow,
            self._own,
        )

    @property
    def _flow(self) -> tuple[float, float]:
        """step and diffusion, which only the antisymmetric RNN has."""
        return 0.0, 0.0

    @property
    def _cell_states(self) -> tuple[str, ...]:
        """The names of what the cell carries from step to step, its output first."""
        return ("h", "c") if self.mode == "LSTM" else ("h",)

    @property
    def _has_masks(self) -> bool:
        """Whether random masks act in training."""
        return 0 < self.dropout < 1 and self.num_layers > 1

    def parameter_names(self) -> list[str]:
        """The names of the layer's parameters in the order of the parameters of stack()."""
        return [name for names in self._all_weights for name in names]

    def _get_name(self) -> str:
        return f"gradcore.torch.{type(self).__name__}"

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.skip is not None:
            text += f", skip={self.skip}"
        return text if self.memory is None else f"{text}, memory={self.memory!r}"

    def as_torch_nn(self) -> nn.RNNBase:
        """torch.nn's layer on the same parameters.

        Raises ArgumentError if torch.nn has no such layer: with a skip connection, and for an
        AntisymmetricRNN.
        """
        if self._origin is None or self.skip is not None:
            raise ArgumentError(
                f"torch.nn has no such layer as {self!r}: it has no skip connections through time "
                "and no AntisymmetricRNN."
            )
        twin = self._origin.__new__(self._origin)
        own = ("skip", "memory", "_overflow", "_seen")
        twin.__dict__ = {name: item for name, item in self.__dict__.items() if name not in own}
        # Parametrizations make new tensors of the weights each time.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        twin.__dict__["_flat_weights"] = weights
        return twin

    def __prepare_scriptable__(self) -> Any:
        raise ArgumentError(
            f"torch.jit.script cannot compile a layer of gradcore.torch. {PUT_BACK}"
        )

    def forward(self, input: Any, hx: Any = None, lengths: Any = None, reset: Any = None) -> Any:
        """Outputs and the last state, as torch.nn's layer returns them."""
        if _modes.needs_torch_nn(getattr(self, self._all_weights[0][0])):
            if lengths is not None or reset is not None:
                raise ArgumentError(
                    "ONNX files and per-sample gradients by expanded weights are those of "
                    "torch.nn's layer, which takes neither lengths nor reset; leave them out."
                )
            return self.as_torch_nn()(input, hx)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ArgumentError("lengths must be None for a PackedSequence, which has its own.")
            if reset is not None:
                raise ArgumentError(
                    "reset must be None for a PackedSequence. Pass the padded tensor of "
                    "torch.nn.utils.rnn.pad_packed_sequence with its lengths, and reset."
                )
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D tensor "
                "instead"
            )
        batched = input.dim() == 3
        states = self._states(hx, 3 if batched else 2)
        x, flags = input, self._flags(reset, input)
        if not batched:
            x, flags = input.unsqueeze(1), None if flags is None else flags.unsqueeze(1)
            states = None if states is None else [state.unsqueeze(-2) for state in states]
        elif self.batch_first:
            x, flags = input.transpose(0, 1), None if flags is None else flags.t()
        self._check(x, states)
        outputs, end = self._run(x, states, lengths, flags)
        if not batched:
            outputs, end = outputs.squeeze(1), [state.squeeze(-2) for state in end]
        elif self.batch_first:
            outputs = outputs.transpose(0, 1)
        return outputs, self._given_back(end)

    def _packed(self, packed: PackedSequence, hx: Any) -> Any:
        """Pads the sequences, runs with lengths and packs again; it costs what padding costs."""
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
        outputs, end = self._run(x, states, None if bool(there.all()) else lengths, None)
        if back is not None:
            end = [state.index_select(-2, back) for state in end]
        return PackedSequence(outputs[there], batch_sizes, order, back), self._given_back(end)

    def _states(self, hx: Any, dims: int) -> list[Tensor] | None:
        """hx as a list of states; with a lag, the second axis of h is that of past outputs."""
        if hx is None:
            return None
        names = self._cell_states
        states = list(hx) if len(names) > 1 else [hx]
        if len(states) != len(names):
            raise ShapeError(
                f"hx must have the states {', '.join(names)}; got {len(states)} tensors."
            )
        expected = [dims + (self._lag > 1), *[dims] * (len(names) - 1)]
        found = [state.dim() for state in states]
        if found != expected:
            what = "batched 3-D" if dims == 3 else "unbatched 2-D"
            if len(names) > 1:
                told = " and ".join(f"{name}x" for name in names)
                raise RuntimeError(
                    f"For {what} input, {told} should also be {dims}-D but got "
                    f"({', '.join(f'{number}-D' for number in found)}) tensors"
                )
            raise RuntimeError(
                f"For {what} input, hx should also be {dims}-D but got {found[0]}-D tensor"
            )
        return states

    def _flags(self, reset: Any, input: Tensor) -> Tensor | None:
        """reset as a tensor, which has a flag for each row of the input."""
        if reset is None:
            return None
        flags = torch.as_tensor(reset)
        if flags.dtype != torch.bool:
            raise DTypeError(f"reset must be boolean; got {flags.dtype}.")
        axes = "(T,)" if input.dim() == 2 else "(B, T)" if self.batch_first else "(T, B)"
        if flags.shape != input.shape[:-1]:
            raise ShapeError(
                f"reset must have shape {axes} = {tuple(input.shape[:-1])}, one flag for each row "
                f"of the input; got {tuple(flags.shape)}."
            )
        return flags

    @property
    def _lag(self) -> int:
        return 1 if self.skip is None else self.skip.lag

    def _check(self, x: Tensor, states: list[Tensor] | None) -> None:
        weight = getattr(self, self._all_weights[0][0])
        if not _modes.runs_on(x, weight):
            raise ArgumentError(
                f"gradcore.torch runs on the CPU only; the input is on {x.device} and the weights "
                f"are on {weight.device}. {PUT_BACK}"
            )
        if weight.dtype not in (torch.float32, torch.float64):
            raise DTypeError(
                f"the weights must be float32 or float64; they are {weight.dtype}. Convert the "
                "layer with .float(), and run it under torch.autocast if the rest of the model "
                f"is to compute in {weight.dtype}. {PUT_BACK}"
            )
        # These are torch.nn's own checks, with messages that users know.
        padded = x.transpose(0, 1) if self.batch_first else x
        self.check_input(padded, None)
        if not _modes.tracing() and x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if states is None:
            return
        sizes = self._state_sizes(x.shape[1])
        for index, (state, expected) in enumerate(zip(states, sizes, strict=True)):
            name = f"hidden[{index}]" if len(states) > 1 else "hidden"
            self.check_hidden_size(state, expected, f"Expected {name} size {{}}, got {{}}")  # type: ignore[arg-type]
            if state.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
                raise ValueError(
                    f"hidden state dtype ({state.dtype}) does not match weight dtype "
                    f"({weight.dtype}). Convert it with .to({weight.dtype})."
                )

    def _run(
        self, x: Tensor, states: list[Tensor] | None, lengths: Any, reset: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs (T, B, O) and final states for x (T, B, I)."""
        weights = tuple(getattr(self, name) for name in self.parameter_names())
        if self.training and self.dropout == 1:
            weights = self._without_inputs(weights)
        dtype, batch = weights[0].dtype, x.shape[1]
        narrow = torch.is_autocast_enabled("cpu")
        if narrow:
            x = x.to(dtype)
            states = None if states is None else [state.to(dtype) for state in states]
        if not _modes.tracing() and batch == 0:
            return self._of_nothing(x, [*weights, *(states or ())])
        if narrow:
            with torch.autocast("cpu", enabled=False):
                outputs, end = self._outputs(x, lengths, reset, weights, states)
        else:
            outputs, end = self._outputs(x, lengths, reset, weights, states)
        return outputs, self._split(end, batch)

    def _outputs(
        self,
        x: Tensor,
        lengths: Any,
        reset: Tensor | None,
        weights: tuple[Tensor, ...],
        states: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs (T, B, O) and the flat state after the last step."""
        flat = torch.cat([weight.reshape(-1) for weight in weights])
        state = None if states is None else self._flat(states)
        x = x.contiguous()
        if _modes.opaque(flat, x, state):
            return self._run_operator(_compiled.layer, x, lengths, reset, flat, state)
        if _modes.batched(lengths) or _modes.batched(reset):
            return self._run_operator(each, x, lengths, reset, flat, state)
        call = self._call(x, lengths, reset, flat, state, weights)
        try:
            outputs, end = apply(call, flat, x, state)
        except NonFiniteError as error:
            raise self._overflow.named(error) from error.__cause__
        if self._seen is not None:
            self._seen.note(call, flat, x, state, outputs)
        return outputs, end

    def _without_inputs(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The weights where dropout=1 sets all inputs of layers after the first to 0."""
        first = self._directions * len(self._all_weights[0])
        names = self.parameter_names()
        return tuple(
            weight * 0 if place >= first and names[place].startswith("weight_ih") else weight
            for place, weight in enumerate(weights)
        )

    def _seed(self) -> Tensor | None:
        """A seed for random masks from PyTorch's generator; None if the layer has no masks now."""
        return torch.randint(2**62, ()) if self.training and self._has_masks else None

    def _run_operator(
        self,
        operator: Any,
        x: Tensor,
        lengths: Any,
        reset: Tensor | None,
        flat: Tensor,
        state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if lengths is not None:
            lengths = torch.as_tensor(lengths)
        memory = "" if self.memory is None else str(self.memory)
        found: tuple[Tensor, Tensor] = operator(
            flat, x, state, lengths, reset, self._seed(), memory, *self._description()
        )
        return found

    def _call(
        self,
        x: Tensor,
        lengths: Any,
        reset: Tensor | None,
        flat: Tensor,
        state: Tensor | None,
        weights: tuple[Tensor, ...],
    ) -> Call:
        seed = self._seed()
        wanted: list[str] = []
        if torch.is_grad_enabled():
            parts = zip(PARTS, (flat, x, state), strict=True)
            wanted = [name for name, part in parts if part is not None and part.requires_grad]
        return Call(
            self._description(),
            checked_lengths(lengths, *x.shape[:2]),
            copied_reset(reset),
            train=seed is not None,
            seed=0 if seed is None else int(seed),
            memory=self.memory,
            wanted=frozenset(wanted),
            overflow=self._overflow,
            weights=weights,
        )

    def _flat(self, states: list[Tensor]) -> Tensor:
        """The flat state: for each layer and direction the past outputs, then the other states."""
        rows = self.num_layers * self._directions
        parts = [state.reshape(rows, -1) for state in states]
        if len(parts) > 1 and not torch.compiler.is_compiling():
            # The gradients of cat are views of one tensor.
            for part in parts:
                if part.requires_grad:
                    part.register_hook(_contiguous)  # type: ignore[no-untyped-call]
        return torch.cat(parts, 1).reshape(-1)

    def _split(self, end: Tensor, batch: int) -> list[Tensor]:
        rows = self.num_layers * self._directions
        planes = end.view(rows, -1, batch, self.hidden_size)
        h = planes.narrow(1, 0, self._lag) if self._lag > 1 else planes.select(1, 0)
        others = [planes.select(1, place) for place in range(self._lag, planes.shape[1])]
        return [state.contiguous() for state in (h, *others)]

    def _state_sizes(self, batch: int) -> list[tuple[int, ...]]:
        """The shape of each state; with a lag, h has an axis of past outputs."""
        size = (self.num_layers * self._directions, batch, self.hidden_size)
        first = (size[0], self._lag, *size[1:]) if self._lag > 1 else size
        return [first, *[size] * (len(self._cell_states) - 1)]

    def _of_nothing(self, x: Tensor, others: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Outputs and states of a batch of no sequences, connected to inputs by zero gradients."""
        zero = x.sum() + torch.stack([other.sum() for other in others]).sum() * 0
        width = self.hidden_size * self._directions
        outputs = zero + x.new_zeros((x.shape[0], 0, width))
        return outputs, [zero + x.new_zeros(shape) for shape in self._state_sizes(0)]

    def _given_back(self, states: list[Tensor]) -> Any:
        return tuple(states) if len(states) > 1 else states[0]


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()
