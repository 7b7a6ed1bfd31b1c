"""RNN, LSTM and GRU as torch.nn has them, and AntisymmetricRNN in their manner."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._base.checks import float_in
from ._layer import Layer

__all__ = ["GRU", "LSTM", "RNN", "AntisymmetricRNN"]


class RNN(Layer):
    """torch.nn.RNN on gradcore's engine: its constructor, and skip and memory of Layer."""

    _origin = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        self.nonlinearity = nonlinearity
        self._mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(input_size, hidden_size, num_layers, *args, **kwargs)


class LSTM(Layer):
    """torch.nn.LSTM on gradcore's engine: its constructor, and skip and memory of Layer."""

    _mode = "LSTM"
    _origin = nn.LSTM


class GRU(Layer):
    """torch.nn.GRU on gradcore's engine: its constructor, and skip and memory of Layer."""

    _mode = "GRU"
    _origin = nn.GRU


class AntisymmetricRNN(Layer):
    """gradcore.AntisymmetricRNN with the constructor and the parameter names of torch.nn's layers.

    h' = h + step * tanh((A - A' - diffusion*I) h + W_ih x + b_ih + b_hh), where weight_hh_l0 is A
    [H, H]. step > 0, diffusion >= 0; 0.01 to 0.1 are usual. mode is "ANTISYMMETRIC". Raises
    ArgumentError.
    Reference: Chang, Chen, Haber, Chi 2019, eq. 9 and 10.
    """

    # torch.nn makes the parameters of an RNN: a gate, two matrices and two biases.
    _mode = "RNN_TANH"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *args: Any,
        step: float = 0.01,
        diffusion: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self.step = float_in("AntisymmetricRNN.step", step, 0.0, open_low=True)
        self.diffusion = float_in("AntisymmetricRNN.diffusion", diffusion, 0.0)
        super().__init__(input_size, hidden_size, num_layers, *args, **kwargs)
        self.mode = "ANTISYMMETRIC"

    def reset_parameters(self) -> None:
        """Draws A from the normal distribution of variance 1/H, as Chang et al. 2019, section 4.

        The other parameters are uniform in +-1/sqrt(H), as in torch.nn; a learned skip is at
        Skip.value.
        """
        super().reset_parameters()
        for names in self._all_weights:
            nn.init.normal_(getattr(self, names[1]), 0.0, self.hidden_size**-0.5)

    def flatten_parameters(self) -> None:
        """Does nothing, because cuDNN, whose layout this is, has no such cell."""

    @property
    def _flow(self) -> tuple[float, float]:
        return self.step, self.diffusion

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, step={self.step}, diffusion={self.diffusion}"
