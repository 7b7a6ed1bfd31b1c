"""The log of what an optimizer has asked, from which a resumed one is answered.

SciPy's optimizers are functions that keep their state to themselves. They are deterministic: given
the same answers they ask the same questions. So a resumed run starts them again, and gives the
answers of before without computing them, until they are where the run was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .full_batch import Vector

__all__ = ["Replay"]

Answer = tuple[float, Vector]


class Replay:
    """Answers by number and vector; with keep=False it passes every question on.

    state_dict: values (E,), vectors (E, n_parameters) and the checksum of the vectors that each
    question was about, (E,).
    """

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._answers: list[tuple[int, float, Vector]] = []
        self._place = 0

    @property
    def replaying(self) -> bool:
        """Whether the next question is one that has been answered already."""
        return self._place < len(self._answers)

    def ask(self, about: tuple[Vector, ...], compute: Callable[[], Answer]) -> Answer:
        """The answer to the next question, computed if it is new.

        Raises CheckpointError if the question is not the one that was asked at this place before.
        """
        check = 0
        for vector in about:
            check = zlib.crc32(np.ascontiguousarray(vector).data, check)
        if self.replaying:
            known, value, vector = self._answers[self._place]
            if known != check:
                raise CheckpointError(
                    "the run cannot be resumed to the same bits, because the optimizer asks for "
                    f"other numbers at its evaluation {self._place + 1} than it did. SciPy, NumPy "
                    "or the machine may be others; start a new run from the parameters of "
                    "best.safetensors."
                )
            self._place += 1
            return value, vector.copy()
        value, vector = compute()
        if self._keep:
            self._answers.append((check, value, vector.copy()))
            self._place += 1
        return value, vector

    def state_dict(self) -> dict[str, Any]:
        size = len(self._answers[0][2]) if self._answers else 0
        return {
            "checks": np.array([check for check, _, _ in self._answers], np.int64),
            "values": np.array([value for _, value, _ in self._answers], np.float64),
            "vectors": np.array([v for _, _, v in self._answers], np.float64).reshape(
                len(self._answers), size
            ),
        }

    def load_state_dict(self, state: dict[str, Any], size: int) -> None:
        """Takes the answers of an earlier run with `size` parameters.

        Raises CheckpointError if they do not fit.
        """
        checks, values, vectors = (
            np.asarray(state.get(name)) for name in ("checks", "values", "vectors")
        )
        fits = (
            vectors.ndim == 2
            and [a.dtype.str[1:] for a in (checks, values, vectors)] == ["i8", "f8", "f8"]
            and checks.shape == values.shape == (len(vectors),)
            and vectors.shape in ((len(vectors), size), (0, 0))
        )
        if not fits:
            raise CheckpointError("the log of evaluations does not fit the net")
        self._answers = list(zip(checks.tolist(), values.tolist(), vectors, strict=True))
        self._place = 0
