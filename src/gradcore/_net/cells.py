"""The recurrent layers: one class per cell that the core lists.

A cell with options of its own has an explicit class here. The class of any other cell is made from
the core's description and has the name of the cell in capitals.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, get_args

from .. import _core
from .._base.checks import choice, float_in, store
from ..errors import ArgumentError
from .layers import Cell, Recurrent

__all__ = ["CELLS", "GRU", "LSTM", "RNN", "AntisymmetricRNN"]

Nonlinearity = Literal["tanh", "relu", "identity"]

_FACTS = {facts.name: facts for facts in _core.cell_facts()}


def _cell(name: str) -> Cell:
    """The core's description of the cell of this name."""
    facts = _FACTS[name]
    functions = facts.functions.split()
    return Cell(
        name,
        gates=tuple(facts.gates.split()),
        functions=tuple("" if function == "nonlinearity" else function for function in functions),
        states=tuple(facts.states.split()),
        memory_gate=facts.memory_gate or None,
        input_gate=facts.input_gate or None,
        antisymmetric=facts.antisymmetric,
    )


@dataclass(frozen=True)
class RNN(Recurrent):
    """Elman cell: h' = f(W_ih x + b_ih + W_hh h + b_hh), f = tanh, relu or identity.

    Reference: Elman 1990; names and shapes as torch.nn.RNN, which has no identity.
    """

    _: KW_ONLY
    nonlinearity: Nonlinearity = "tanh"

    cell: ClassVar[Cell] = _cell("rnn")

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("RNN.nonlinearity", self.nonlinearity, get_args(Nonlinearity))

    @property
    def core_nonlinearity(self) -> str:
        return self.nonlinearity


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory: c' = f*c + i*g, h' = o*tanh(c'), gates in the order i, f, g, o.

    Reference: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; equations,
    names and shapes as torch.nn.LSTM. zoneout_cell: as zoneout, of c with masks of its own.
    """

    _: KW_ONLY
    zoneout_cell: float = 0.0

    cell: ClassVar[Cell] = _cell("lstm")

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, "zoneout_cell", float_in("LSTM.zoneout_cell", self.zoneout_cell, 0.0, 1.0))

    @property
    def core_zoneout_cell(self) -> float:
        return self.zoneout_cell


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit: h' = (1-z)*n + z*h, gates in the order r, z, n.

    The reset gate acts on the recurrent product of n, its bias included.
    Reference: Cho et al. 2014; equations, names and shapes as torch.nn.GRU.
    """

    cell: ClassVar[Cell] = _cell("gru")


@dataclass(frozen=True)
class AntisymmetricRNN(Recurrent):
    """Euler steps of a stable flow: h' = h + step * tanh((A - A' - diffusion*I) h + W_ih x + b).

    weight_hh is A [H, H]; b = b_ih + b_hh. The recurrent weights have eigenvalues with a real part
    of -diffusion, so that with a small step the content of h neither fades nor explodes;
    gradcore.constrain.jacobian_bound gives the proved bound. step > 0, diffusion >= 0; 0.01 to 0.1
    are usual.
    Reference: Chang, Chen, Haber, Chi 2019, eq. 9 and 10.
    """

    _: KW_ONLY
    step: float = 0.01
    diffusion: float = 0.01

    cell: ClassVar[Cell] = _cell("antisymmetric")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recurrent != "dense":
            raise ArgumentError(
                "AntisymmetricRNN.recurrent must be 'dense', because A - A' makes units read each "
                f"other; got {self.recurrent!r}."
            )
        step = float_in("AntisymmetricRNN.step", self.step, 0.0, open_low=True)
        store(self, "step", step)
        diffusion = float_in("AntisymmetricRNN.diffusion", self.diffusion, 0.0)
        store(self, "diffusion", diffusion)

    @property
    def core_step(self) -> float:
        return self.step

    @property
    def core_diffusion(self) -> float:
        return self.diffusion


_WRITTEN: tuple[type[Recurrent], ...] = (RNN, LSTM, GRU, AntisymmetricRNN)


def _made(name: str) -> type[Recurrent]:
    """A layer without options of its own."""
    cell = _cell(name)
    gates = f"gates in the order {', '.join(cell.gates)}" if len(cell.gates) > 1 else "one gate"
    text = f"Recurrent layer with the core's cell {name!r}, {gates}."
    members = {"__doc__": text, "__module__": __name__, "cell": cell}
    return dataclass(frozen=True)(type(name.upper(), (Recurrent,), members))


CELLS: tuple[type[Recurrent], ...] = (
    *_WRITTEN,
    *(_made(name) for name in _FACTS if name not in {kind.cell.name for kind in _WRITTEN}),
)
globals().update({kind.__name__: kind for kind in CELLS})
