"""Ways to clip a gradient before an optimizer takes its step."""

from __future__ import annotations

from dataclasses import dataclass

from ._checks import float_in, store

__all__ = ["GlobalNorm"]


@dataclass(frozen=True)
class GlobalNorm:
    """Scales the whole gradient down to norm max_norm where its Euclidean norm is larger.

    The direction is kept. As torch.nn.utils.clip_grad_norm_, without the 1e-6 it adds to the norm.
    Reference: Pascanu, Mikolov, Bengio 2013, algorithm 1.
    """

    max_norm: float

    def __post_init__(self) -> None:
        store(self, "max_norm", float_in("GlobalNorm.max_norm", self.max_norm, 0, open_low=True))
