"""The running mean and variance by which clip.ZScore recognises outliers."""

from __future__ import annotations

from dataclasses import dataclass

from .state_reader import StateDict, StateReader

__all__ = ["RunningNorm"]


@dataclass
class RunningNorm:
    """Mean and variance of the logarithm of the gradient's norm over `count` steps."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def state_dict(self) -> StateDict:
        """The statistics as plain numbers."""
        return {
            "kind": "running_norm",
            "count": self.count,
            "mean": self.mean,
            "variance": self.variance,
        }

    @classmethod
    def loaded(cls, state: object) -> RunningNorm:
        """Makes one from a state_dict(); raises ArgumentError or DTypeError naming the key."""
        read = StateReader("ZScore", state, "running_norm", ("count", "mean", "variance"))
        return cls(read.integer("count"), read.number("mean"), read.number("variance", 0.0))
