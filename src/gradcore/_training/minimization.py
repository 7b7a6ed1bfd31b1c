"""One call of minimize: SciPy's optimizer, what happens between its iterations, and the run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from .._base.progress import Show
from .._base.scaled import log10_norm
from .._net.stack import Params
from ..callbacks import Callback
from ..errors import ArgumentError, CheckpointError, NonFiniteError
from .checkpoint import Place, TrainingCheckpoint
from .fit import Limits
from .full_batch import Curvature, FullBatch, Vector
from .replay import Answer, Replay
from .runs import RunFolder
from .scoring import Score
from .snapshot import refuse_other_settings
from .supervised import SAVE_SECONDS, Stopped, Supervised

__all__ = ["Method", "Minimization"]

Method = Literal["L-BFGS-B", "trust-ncg", "least-squares"]

_ENDLESS = 2**31 - 1
# SciPy's method with its options, and the matrix that its products are of. A gradient of gtol, in
# its largest component or its norm, ends them. A long memory pays: with 60 corrections instead of
# 20 the loss after 600 passes of benchmarks/sysid.py was 0.25 to 0.62 of it, for four seeds.
_METHODS: dict[str, tuple[str, dict[str, Any], Curvature | None]] = {
    "L-BFGS-B": (
        "L-BFGS-B",
        {"maxfun": _ENDLESS, "maxcor": 100, "maxls": 50, "ftol": 0.0, "gtol": 1e-9},
        None,
    ),
    "trust-ncg": ("trust-ncg", {"gtol": 1e-9}, "hessian"),
    "least-squares": ("trust-ncg", {"gtol": 1e-9}, "gauss_newton"),
}


class _Reached(Exception):  # noqa: N818
    """Leaves SciPy's optimizer because a limit has been reached."""

    def __init__(self, reason: Stopped) -> None:
        self.reason: Stopped = reason


class Minimization(Supervised):
    """The state of one minimization while it runs.

    The vector of the last iteration is that of params until the end, when params get the best one.
    """

    def __init__(
        self,
        problem: FullBatch,
        settings: dict[str, Any],
        limits: Limits,
        score: Score | None,
        every: int,
        folder: RunFolder | None,
        callbacks: Sequence[Callback],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(Place(), folder, settings["maximise"], callbacks, tell)
        self.updater = self.problem = problem
        self.settings, self.limits, self.score, self.every = settings, limits, score, every
        self._scipy = _optimize()
        self._start_vector = self._vector = problem.params.flat.astype(np.float64)
        self._best = self._start_vector
        self._replay = Replay(keep=folder is not None)
        self._evaluations = self._products = self._iterations = 0
        # The loss of the last iteration, and the norms of gradients since then.
        self._loss = math.nan
        self._norms: dict[bytes, float] = {}
        self._show: Show | None = None

    # ---- What the optimizer asks ---------------------------------------------------------------

    def _value_and_grad(self, x: Vector) -> Answer:
        self._stop_if_late()
        loss, gradient = self._replay.ask((x,), lambda: self._computed(x))
        self._evaluations += 1
        if math.isnan(self._loss):  # at the start
            self._loss = loss
        self._norms[x.tobytes()] = float(log10_norm(gradient, 0))
        return loss, gradient

    def _computed(self, x: Vector) -> Answer:
        """Loss and gradient; where they are not finite, a loss that no line search would take.

        It is larger than that of the last iteration, where the search begins.
        """
        try:
            return self.problem.value_and_grad(x)
        except NonFiniteError:
            if math.isnan(self._loss):  # at the start
                raise
            return 10.0 * (abs(self._loss) + 1.0), np.zeros_like(x)

    def _product(self, x: Vector, v: Vector) -> Vector:
        curvature = _METHODS[self.settings["method"]][2]
        assert curvature is not None
        self._stop_if_late()
        answer = self._replay.ask((x, v), lambda: (0.0, self.problem.product(x, v, curvature)))
        self._products += 1
        return answer[1]

    def _stop_if_late(self) -> None:
        limit = self.limits.seconds
        if limit is not None and not self._replay.replaying and self.seconds() >= limit:
            raise _Reached("minutes")

    # ---- The loop ------------------------------------------------------------------------------

    def _loop(self, show: Show) -> Stopped:
        self._show = show
        name, options, curvature = _METHODS[self.settings["method"]]
        more = {} if curvature is None else {"hessp": self._product}
        options = {"maxiter": _ENDLESS, **options, **self.settings["options"]}
        reason: Stopped
        try:
            if self.place.step == 0:
                self._stop_at_limits()
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Unknown solver options")
                result = self._scipy.minimize(
                    self._value_and_grad,
                    self._start_vector,
                    jac=True,
                    method=name,
                    callback=self._iterated,
                    options=options,
                    **more,
                )
            reason = "converged" if result.success else "precision"
            self.tell(f"{name} ended after {self.place.step} iterations: {result.message}")
        except self._scipy.OptimizeWarning as warning:
            raise ArgumentError(
                f"options must be those of SciPy's {name}: {str(warning).lower()}."
            ) from warning
        except _Reached as reached:
            reason = reached.reason
        self._look()
        with self._interrupts.held():
            self._write_line()
        self._checkpoint()
        return reason

    def _iterated(self, intermediate_result: Any) -> None:
        """Called by the optimizer after every iteration; SciPy knows it by the argument's name."""
        self._iterations += 1
        x, loss = intermediate_result.x, float(intermediate_result.fun)
        self._loss = loss
        if self._iterations < self.place.step:
            return  # replayed
        if self._iterations > self.place.step:
            with self._interrupts.held():
                self._write_line()
                self._advance(x.copy(), loss)
            self._call("on_update")
        if self.place.step % self.every == 0:
            self._look()
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self._checkpoint()
        if self.losses and self._show is not None:
            self._show(self.status)
        self._stop_at_limits()

    def _advance(self, x: Vector, loss: float) -> None:
        """Takes note of an iteration, whose vector becomes that of params."""
        norm = self._norms.get(x.tobytes(), math.nan)
        self._norms = {x.tobytes(): norm}
        self._vector = x
        np.copyto(self.problem.params.flat, x, casting="same_kind")
        if self.score is None:
            self._best = x
        self.losses.append(loss)
        self.place.step += 1
        self.metrics = self.place.line = {
            "step": self.place.step,
            "loss": loss,
            "grad_norm_log10": norm if math.isfinite(norm) else None,
            "evaluations": self._evaluations,
            "products": self._products,
            "seconds": round(self.seconds(), 3),
        }

    def _look(self) -> None:
        """Evaluates the vector of the last iteration, unless that has been done already."""
        place = self.place
        done = bool(place.evaluations) and place.evaluations[-1][0] == place.step
        if self.score is None or place.step == 0 or done:
            return
        score, heads = self.score(self.problem.params)
        with self._interrupts.held():
            place.evaluations.append((place.step, score))
            if place.line is not None:
                place.line["score"] = score
                if heads is not None:
                    place.line["scores"] = heads
            self.take_scores(place.step, heads)
            sign = -1.0 if self.maximise else 1.0
            if place.best is None or sign * score < sign * place.best:
                place.best_step, self._best = place.step, self._vector
                if self.folder is not None:
                    self.folder.save_best(self.problem.params, step=place.step, score=score)
        self._call("on_evaluation")

    def _stop_at_limits(self) -> None:
        limits, place = self.limits, self.place
        if limits.steps is not None and place.step >= limits.steps:
            raise _Reached("steps")
        if limits.patience is not None and place.since_best >= limits.patience:
            raise _Reached("patience")
        self._stop_if_late()

    def _part(self) -> float | None:
        parts = []
        if self.limits.steps is not None:
            parts.append(self.place.step / self.limits.steps)
        if self.limits.seconds:
            parts.append(self.seconds() / self.limits.seconds)
        return max(parts, default=None)

    def _leave(self) -> None:
        np.copyto(self.problem.params.flat, self._best, casting="same_kind")

    # ---- The run's folder ----------------------------------------------------------------------

    def _open(self, resume: bool) -> None:
        if self.folder is None:
            return
        earlier = self.folder.earlier(resume)
        if earlier is not None:
            refuse_other_settings(earlier, self.settings, self.problem.net, self.folder)
            self._restore(earlier, self.folder)
        place = self.place
        self.folder.start(place.step + (place.line is None))
        self._save()

    def _restore(self, earlier: TrainingCheckpoint, folder: RunFolder) -> None:
        state = earlier.states.get("minimize", {})
        size = self.problem.params.flat.size
        try:
            vectors = [np.asarray(state.get(name)) for name in ("start", "last", "best")]
            if any(v.dtype != np.float64 or v.shape != (size,) for v in vectors):
                raise CheckpointError("its vectors do not fit the net")
            self._replay.load_state_dict(state, size)
        except CheckpointError as error:
            raise CheckpointError(
                f"{folder.last} cannot be resumed: {str(error).rstrip('.')}."
            ) from error
        self._start_vector, self._vector, self._best = vectors
        self.place = earlier.place
        self.metrics = self.place.line or {}
        np.copyto(self.problem.params.flat, self._vector, casting="same_kind")

    def _made(self) -> TrainingCheckpoint:
        vectors = {"start": self._start_vector, "last": self._vector, "best": self._best}
        states = {"minimize": {**vectors, **self._replay.state_dict()}}
        params = Params(self.problem.net, self.problem.point(self._vector))
        return TrainingCheckpoint(params, self.settings, self.place, states)


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise ImportError("minimize needs SciPy: pip install 'gradcore[diagnose]'.") from error
    return optimize
