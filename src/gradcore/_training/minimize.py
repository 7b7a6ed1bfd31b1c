"""minimize: trains a net with SciPy's optimizers on exact gradients of the whole loss."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, get_args

from .._base.checks import choice, finite_float, flag, float_in, positive_int
from .._base.interrupts import Interrupts
from .._base.progress import progress
from .._engine.objective import AnyLoss, heads_of, resolve
from .._net import io
from .._net.stack import Params, Stack
from .._net.validate import model
from ..callbacks import Callback
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError
from ..loss import Given, Heads, Loss
from .feed import feed_of
from .fit import Limits
from .full_batch import FullBatch, batches_of
from .hooks import checked_callbacks
from .minimization import Method, Minimization
from .report import FitReport, report_of, teller
from .runs import RunFolder
from .scoring import scorer

__all__ = ["minimize"]

# What ends or shows the work is an argument of minimize.
_NOT_OPTIONS = {"maxiter": "steps", "maxfun": "steps", "disp": "quiet", "callback": "callbacks"}


def minimize(
    net: Stack,
    params: Params,
    data: Source | Batch | Sequence[Batch],
    *,
    loss: AnyLoss,
    method: Method = "L-BFGS-B",
    steps: int | None = None,
    minutes: float | None = None,
    validation: Source | Sequence[Batch] | None = None,
    evaluate: Callable[[Params], float] | None = None,
    every: int = 1,
    maximise: bool = False,
    patience: int | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    options: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    memory: int | str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> FitReport:
    """Minimises the loss over all data at once with an optimizer of SciPy; params end at the best.

    For nets of up to some thousand parameters on one long record, or a few: the gradient of the
    whole loss is exact and has the same bits at every call, which is what these methods need. Use
    parameters of float64: in float32 the loss soon ceases to fall because of rounding.
    data: a batch, a list of batches, or a source, of which one pass is used; all of it is kept in
    memory. Each call of the function costs a pass over all data. method: "L-BFGS-B" needs gradients
    only; "trust-ncg" is Newton's method in a trust region, with Hessian products; "least-squares"
    is the same with products of the Gauss-Newton matrix, which is positive semidefinite. The last
    two need a loss of gradcore.loss. options: of SciPy's method, numbers such as {"gtol": 1e-6}.
    steps: the most iterations of the method, each of which takes one pass or more. minutes,
    validation, evaluate, maximise, patience, run, resume: as in Trainer.fit; the score is computed
    every `every` iterations, and params end with the values of the best score, or of the last
    iteration if there is no score. A resumed run has the same bits as one that never stopped: its
    last.safetensors has every gradient so far, 8 bytes per parameter and evaluation. callbacks: see
    gradcore.callbacks; an update is an iteration. loss, memory, threads: see value_and_grad.
    Ctrl-C and SIGTERM end it, and so does an error of a callback, both after the checkpoint.
    Raises ArgumentError, also for nets that draw random masks, because their loss is not one
    function, and for data that carry a state; DTypeError, ImportError without SciPy,
    CheckpointError, and NonFiniteError if the loss is not finite at the start.
    Reference: Byrd et al. 1995; Steihaug 1983; Martens 2010.
    """
    problem = _problem(net, params, data, loss, memory, threads)
    limits = Limits(
        None if steps is None else positive_int("steps", steps),
        None,
        None if minutes is None else 60.0 * float_in("minutes", minutes, 0.0),
        None if patience is None else positive_int("patience", patience),
    )
    score = scorer(problem, validation, evaluate)
    if patience is not None and score is None:
        raise ArgumentError("patience needs a score: pass validation or evaluate.")
    if flag("resume", resume) and run is None:
        raise ArgumentError("resume=True needs run=, the folder of the run to continue.")
    settings = _settings(problem, method, options, maximise, validation, run is not None)
    told, every = checked_callbacks(callbacks), positive_int("every", every)
    tell = teller(flag("quiet", quiet))
    folder = None if run is None else RunFolder(run)
    try:
        work = Minimization(problem, settings, limits, score, every, folder, told, tell)
        with progress(quiet) as show, Interrupts() as interrupts:
            stopped = work.run(resume, show, interrupts)
        return report_of(work, stopped)
    finally:
        if folder is not None:
            folder.close()


def _problem(
    net: Stack,
    params: Params,
    data: object,
    loss: AnyLoss,
    memory: int | str | None,
    threads: int | None,
) -> FullBatch:
    model(net, params)
    if net.is_random:
        raise ArgumentError(
            "minimize needs a loss that is a function of the parameters alone, and this net draws "
            "random masks (Dropout, zoneout or recurrent_dropout). Leave them out, or use Trainer."
        )
    resolved = resolve(loss)
    if isinstance(resolved, Heads):
        heads_of(resolved, net)  # checks the names
        losses: list[Any] = [own for _, own, _ in resolved.entries]
    else:
        losses = [resolved]
    if any(isinstance(own, Given) for own in losses):
        raise ArgumentError("minimize needs a loss that follows from the outputs; Given does not.")
    given = data.float_dtype if isinstance(data, Source) else None
    if given is not None and given != params.dtype:
        raise DTypeError(
            f"data gives floats as {given}, and the parameters are {params.dtype}. Pass "
            f"dtype={str(params.dtype)!r} to {type(data).__name__}."
        )
    return FullBatch(net, params, batches_of(data), resolved, memory, threads)


def _settings(
    problem: FullBatch,
    method: Method,
    options: dict[str, Any] | None,
    maximise: bool,
    validation: object,
    contents: bool,
) -> dict[str, Any]:
    """What must be the same for a run to be resumed, as JSON values."""
    choice("method", method, get_args(Method))
    if method != "L-BFGS-B" and not isinstance(problem.loss, Loss):
        raise ArgumentError(
            f"method={method!r} needs a loss of gradcore.loss, because the second derivatives of a "
            'Python function are not known. Use method="L-BFGS-B".'
        )
    if options is not None and not isinstance(options, dict):
        raise DTypeError(f"options must be a dict of options of SciPy's method; got {options!r}.")
    for name, value in (options or {}).items():
        if name in _NOT_OPTIONS:
            raise ArgumentError(f"options must not have {name!r}; pass {_NOT_OPTIONS[name]}=.")
        finite_float(f"options[{name!r}]", value)
    io.as_json("options", options)
    held_out = None if validation is None else feed_of(validation, None)
    return {
        "dtype": str(problem.params.dtype),
        "method": method,
        "options": options or {},
        "loss": repr(problem.loss) if isinstance(problem.loss, Loss) else "a function",
        "maximise": flag("maximise", maximise),
        "data": feed_of(list(problem.batches), None).describe(contents),
        "validation": None if held_out is None else held_out.describe(contents),
    }
