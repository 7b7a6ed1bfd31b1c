"""StaticInput: a layer that reads inputs that do not change with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .._base.checks import layer_size, store
from .layers import RowLayer

__all__ = ["StaticInput"]


@dataclass(frozen=True)
class StaticInput(RowLayer):
    """Adds a linear map of inputs that do not change with time: rows of sequence b + W @ static[b].

    static (B, static_size) is an argument of the call; W is weight [features, static_size], and
    features is the width of the rows. The map is computed once per call, and no array of shape
    (T, B, static_size) is made. Behind Dense(I, features) it equals one linear map of x and static
    side by side, torch.cat([x, static.expand(T, B, S)], -1). Several such layers in a net, and
    recurrent layers with initial_state="static", read the same static.
    Raises ArgumentError for sizes that are not positive.
    Reference: Kratzert et al. 2019, whose LSTM for many catchments reads their attributes at every
    step.
    """

    static_size: int
    features: int

    size_field: ClassVar[str | None] = "features"

    def __post_init__(self) -> None:
        store(self, "static_size", layer_size("StaticInput.static_size", self.static_size))
        store(self, "features", layer_size("StaticInput.features", self.features))

    def width_after(self, width: int) -> int:
        return self.features

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        return ({"kind": "static", "inputs": self.static_size, "outputs": self.features},)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"weight": ((self.features, self.static_size), "(features, static_size)")}
