"""The optimizers and clips that are compared."""

from __future__ import annotations

from collections.abc import Callable

from .... import clip, optim
from ...._net.stack import Params

__all__ = ["CLIPS", "OPTIMIZERS", "RATES", "Make"]

Make = Callable[[Params, float, clip.Clip | None], optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda params, lr, how: optim.SGD(params, lr, clip=how),
    "momentum": lambda params, lr, how: optim.SGD(params, lr, momentum=0.9, clip=how),
    "RMSprop": lambda params, lr, how: optim.RMSprop(params, lr, clip=how),
    "Adam": lambda params, lr, how: optim.Adam(params, lr, clip=how),
    "AdamW": lambda params, lr, how: optim.AdamW(params, lr, clip=how),
}
# The candidate learning rates: half powers of ten around those that are usual for the optimizers.
_LARGE, _SMALL = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), (3e-4, 1e-3, 3e-3, 1e-2)
RATES = {
    "SGD": _LARGE,
    "momentum": _LARGE,
    "RMSprop": _SMALL,
    "Adam": _SMALL,
    "AdamW": _SMALL,
}
# The limits are usual ones and were not tuned here: 1 is the most frequent limit for recurrent
# nets, and 0.01 is that of Brock et al.
CLIPS: dict[str, clip.Clip | None] = {
    "none": None,
    "value": clip.Value(0.1),
    "global norm": clip.GlobalNorm(1.0),
    "per parameter": clip.ParameterNorm(1.0),
    "adaptive": clip.Adaptive(0.01),
    "z-score": clip.ZScore(max_norm=10.0),
}
