"""gradcore.diagnose: measures the parts of a diagnosis, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import amplification, gates, horizon, lyapunov
from .._base.checks import choice, integer, positive_int
from .._base.scaled import log10_norm
from .._engine.calls import apply
from .._engine.objective import AnyLoss
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, clear_sequences, sequences_of, state_size
from ..errors import ArgumentError, NonFiniteError
from ..jacobian import HiddenGradients, hidden_gradients, state_singular_values
from ..jacobian._ranges import Ranges
from ..loss import Given, Heads, Loss
from ._front_end import behind_windows
from ._measured import Measured, Overflow
from ._result import Diagnosis
from ._verdict import findings_of

__all__ = ["PARTS", "Progress", "diagnose"]

# The parts in the order in which they are measured, each with its share of the time for an LSTM
# with H = 128 at T = 10,000. The shares are used for the progress bar only.
PARTS = {
    "gradient": 0.05,
    "reach": 0.1,
    "windows": 0.05,
    "truncation": 0.4,
    "lyapunov": 0.1,
    "singular_values": 0.2,
    "amplification": 0.1,
    "gates": 0.05,
}
NEED_LOSS = ("gradient", "windows", "truncation")
# These parts split the loss into those of windows.
SPLIT = ("windows", "truncation")
# These parts need a state that goes from step to step through the whole net, which nets with
# bidirectional layers do not have.
ONE_WAY = ("windows", "truncation", "lyapunov", "singular_values", "amplification", "gates")

EXPONENTS = 8
SINGULAR_VALUES = 8
# A part is measured only if the sequences, or the steps before an overflow, have so many steps.
LEAST_STEPS = 4
# The number of steps of one forward pass in the search for an overflow.
STRETCH = 1024

# progress(part, share): the part that is being measured, and the share of all work that is done.
Progress = Callable[[str, float], None]


def diagnose(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: AnyLoss | None = None,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    parts: Sequence[str] | None = None,
    sequences: int = 1,
    seed: int = 0,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measures where the gradient of a net goes, why it vanishes or explodes, and what would help.

        found = gd.diagnose(net, params, batch.x, batch.y, loss="cross_entropy")
        print(found)                       # the verdict: each sentence with its number and remedy
        found.to_html("diagnosis.html")    # one file with all pictures

    x, y, loss, weight, lengths, reset, state, static, memory, threads: the arguments of
    gradcore.value_and_grad; the net is in evaluation mode. Without y and loss only the parts that
    need no targets are measured. parts: some of gradcore.diagnosis.PARTS, or None for all:
    "gradient" (its norm for each parameter, and the norm of dL/dh_t at each step), "reach"
    (gradcore.horizon.reach), "windows" (gradcore.horizon.window_shares), "truncation"
    (gradcore.horizon.truncation_bias), "lyapunov" (the 8 largest exponents), "singular_values" (the
    8 largest of the state's Jacobian over lags 1, 3, 10, 30, ...), "amplification"
    (gradcore.amplification), "gates" (gradcore.gates). sequences: lyapunov, singular_values and
    amplification use only this number of sequences, the longest ones. seed: seed of random
    directions. progress(part, share) is called at intervals; an exception from it ends the
    diagnosis.

    A forward pass that overflows is a finding, not an error. A part that cannot be measured, for
    example because a layer is bidirectional, is missing, and `left_out` has the reason. Of a net
    that begins with layers that shorten time or look ahead, the layers behind these are measured.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError.
    """
    validate.model(net, params)
    if isinstance(loss, Mapping):
        loss = Heads(loss)
    if (loss is None) != (y is None):
        missing, given = ("loss", "y") if loss is None else ("y", "loss")
        raise ArgumentError(f"{given} is given, but not {missing}; give both, or neither.")
    wanted = [choice("parts", part, tuple(PARTS)) for part in (PARTS if parts is None else parts)]
    if not wanted:
        raise ArgumentError(f"parts must name at least one of {', '.join(PARTS)}.")
    how: dict[str, Any] = {"memory": memory, "threads": threads}
    told = {}
    if net.windowed:
        if state is not None:
            raise ArgumentError(
                "state must be None for a net with layers that shorten time or look ahead, which "
                "begin each call anew."
            )
        behind = behind_windows(net, params, x, lengths, reset, static, how)
        net, params, told = behind.net, behind.params, {"front end": behind.told}
        x, lengths, reset, static = (behind.inputs[name] for name in behind.inputs)
    inputs = Ranges(net, params.dtype, x, lengths, reset, static)
    work = _Work(
        net,
        params,
        inputs,
        None if lengths is None else np.asarray(lengths),
        state,
        {"y": y, "loss": loss, "weight": weight},
        positive_int("sequences", sequences),
        integer("seed", seed),
        how,
        _Bar(wanted, progress),
    )
    work.left_out |= told
    measured = work.run(wanted)
    return Diagnosis(measured, findings_of(measured))


class _Work:
    """A net, its data, and the parts measured so far."""

    def __init__(
        self,
        net: Stack,
        params: Params,
        inputs: Ranges,
        lengths: NDArray[Any] | None,
        state: Sequence[LayerState] | None,
        target: dict[str, Any],
        sequences: int,
        seed: int,
        how: dict[str, Any],
        bar: _Bar,
    ) -> None:
        self.net, self.params, self.inputs, self.state = net, params, inputs, state
        self.target, self.seed, self.how, self.bar = target, seed, how, bar
        self.steps = inputs.steps
        self.ends = np.full(inputs.batch, inputs.steps) if lengths is None else lengths
        order = np.argsort(-self.ends, kind="stable")[:sequences]
        self.looked_at = tuple(int(b) for b in np.sort(order))
        self.overflow: Overflow | None = None
        self.found: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(self, wanted: Sequence[str]) -> Measured:
        self._look_for_overflow()
        for part in PARTS:
            if part not in wanted:
                continue
            reason = self._reason_against(part)
            if reason is not None:
                self.left_out[part] = reason
                continue
            begin = time.perf_counter()
            self.bar.start(part)
            try:
                getattr(self, f"_{part}")()
            except NonFiniteError as error:
                self.left_out[part] = str(error)
            self.seconds[part] = time.perf_counter() - begin
        self.bar.end()
        net, params = self.net, self.params
        measured = Measured(
            net=net,
            dtype=str(params.dtype),
            names=net.recurrent_names,
            steps=self.inputs.steps,
            batch=self.inputs.batch,
            looked_at=self.looked_at,
            loss=None,
            gradients=None,
            gradients_complete=True,
            sizes={name: float(log10_norm(array, 0)) for name, array in params.items()},
            hidden=None,
            reach=None,
            windows=None,
            truncation=None,
            lyapunov=None,
            lags=None,
            singular_values=None,
            amplification=None,
            gates=None,
            left_out=self.left_out,
            overflow=self.overflow,
            seconds=self.seconds,
        )
        return replace(measured, **self.found)

    def _look_for_overflow(self) -> None:
        # The net runs over STRETCH steps at a time, so that the outputs of the whole length never
        # take memory at once.
        stretch = self.steps if self.net.bidirectional else STRETCH
        state: Any = self.state
        t0 = 0
        try:
            for t0 in range(0, self.steps, stretch):
                inputs = self.inputs[t0 : t0 + stretch]
                _, state = apply(self.net, self.params, **inputs, state=state, **self.how)
        except NonFiniteError as error:
            if error.step < 0:  # of static, which has no steps
                raise
            self.overflow = Overflow(error.layer, t0 + error.step, error.sequence)
            self.steps = t0 + error.step

    def _reason_against(self, part: str) -> str | None:
        if part in NEED_LOSS and self.target["loss"] is None:
            return "this part needs y and loss."
        loss = self.target["loss"]
        if part in SPLIT and isinstance(loss, Loss) and not loss.adds_up:
            return f"{type(loss).__name__} is no sum over windows of time."
        if part in SPLIT and self.net.pool is not None:
            return "the net has a Pool, so that its loss is no sum over windows of time."
        if part in ONE_WAY and self.net.bidirectional:
            return "this part needs layers that read time forward, and one is bidirectional."
        silent = [layer for layer in self.net.recurrent if not layer.cell.tells_gates]
        if part == "gates" and silent:
            return (
                f"the cell {type(silent[0]).__name__} does not tell the activations of its gates."
            )
        if part == "lyapunov" and self._is_reset():
            return "resets interrupt the trajectory of the sequences that are measured."
        if self.overflow is not None and part in NEED_LOSS:
            return f"the forward pass overflows at step {self.overflow.step}."
        if self.steps < LEAST_STEPS:
            return f"this part needs {LEAST_STEPS} steps or more; there are {self.steps}."
        return None

    def _is_reset(self) -> bool:
        reset = self.inputs[1 : self.steps]["reset"]
        return reset is not None and bool(reset[:, list(self.looked_at)].any())

    # ---- parts

    def _gradient(self) -> None:
        layers: list[HiddenGradients] = []
        directions = [
            (index, reverse)
            for index, layer in enumerate(self.net.recurrent)
            for reverse in (False, True)[: len(layer.directions)]
        ]
        for count, (index, reverse) in enumerate(directions):
            layers.append(
                hidden_gradients(
                    self.net,
                    self.params,
                    **self.inputs[: self.steps],
                    **self.target,
                    layer=index,
                    reverse=reverse,
                    norms_only=True,
                    state=self.state,
                    **self.how,
                )
            )
            self.bar(count + 1, len(directions))
        grads = layers[-1].grads
        # A gradient with an exponent may have zeros that only lie far below its largest number, so
        # a zero then does not prove that a parameter has no gradient.
        self.found |= {
            "hidden": tuple(layers),
            "loss": None if isinstance(self.target["loss"], Given) else layers[-1].loss,
            "gradients_complete": grads.exponent == 0,
            "gradients": {
                name: float(log10_norm(array, grads.exponent)) for name, array in grads.items()
            },
        }

    def _reach(self) -> None:
        found = []
        for index in range(len(self.net.recurrent)):
            found.append(
                horizon.reach(
                    self.net,
                    self.params,
                    **self.inputs[: self.steps],
                    layer=index,
                    seed=self.seed,
                    state=self.state,
                    **self.how,
                )
            )
            self.bar(index + 1, len(self.net.recurrent))
        self.found["reach"] = tuple(found)

    def _windows(self) -> None:
        self.found["windows"] = horizon.window_shares(
            self.net,
            self.params,
            **self.inputs[: self.steps],
            **self.target,
            state=self.state,
            **self.how,
            progress=self.bar,
        )

    def _truncation(self) -> None:
        self.found["truncation"] = horizon.truncation_bias(
            self.net,
            self.params,
            **self.inputs[: self.steps],
            **self.target,
            state=self.state,
            **self.how,
            progress=self.bar,
        )

    def _lyapunov(self) -> None:
        x, reset, state = self._whole()
        if state is not None and reset is not None:
            clear_sequences(state, reset[0])
        self.found["lyapunov"] = lyapunov.spectrum(
            self.net,
            self.params,
            x,
            min(EXPONENTS, state_size(self.net, 1)),
            frames_seed=self.seed,
            state=state,
            static=self._static(),
            **self.how,
            progress=self.bar,
        )

    def _singular_values(self) -> None:
        x, reset, state = self._whole()
        lags = [m * 10**n for n in range(12) for m in (1, 3) if m * 10**n < len(x)] + [len(x)]
        self.found["lags"] = np.array(lags, np.int64)
        self.found["singular_values"] = state_singular_values(
            self.net,
            self.params,
            x,
            lags,
            min(SINGULAR_VALUES, state_size(self.net, 1)),
            seed=self.seed,
            state=state,
            static=self._static(),
            reset=reset,
            **self.how,
            progress=self.bar,
        )

    def _amplification(self) -> None:
        x, reset, state = self._whole()
        self.found["amplification"] = amplification.along(
            self.net,
            self.params,
            x,
            reset=reset,
            state=state,
            static=self._static(),
            **self.how,
            progress=self.bar,
        )

    def _gates(self) -> None:
        self.found["gates"] = gates.statistics(
            self.net,
            self.params,
            **self.inputs[: self.steps],
            state=self.state,
            **self.how,
            progress=self.bar,
        )

    def _static(self) -> NDArray[Any] | None:
        """That of the measured sequences."""
        return None if self.inputs.static is None else self.inputs.static[list(self.looked_at)]

    def _whole(
        self,
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None, tuple[LayerState, ...] | None]:
        """Input, resets and a copy of the initial state of the measured sequences.

        They go up to the end of the shortest sequence.
        """
        chosen = list(self.looked_at)
        stop = max(1, min(self.steps, int(self.ends[chosen].min())))
        inputs = self.inputs[:stop]
        x = np.ascontiguousarray(inputs["x"][:, chosen])
        reset = None if inputs["reset"] is None else inputs["reset"][:, chosen]
        state = None if self.state is None else sequences_of(self.state, chosen)
        return x, reset, state


class _Bar:
    """Turns the progress of single parts into one share of the whole work."""

    def __init__(self, parts: Sequence[str], show: Progress | None) -> None:
        self.show, self.part, self.done = show, "", 0.0
        self.shares = {part: PARTS[part] / sum(PARTS[p] for p in parts) for part in parts}

    def start(self, part: str) -> None:
        self.done += self.shares.get(self.part, 0.0)
        self.part = part
        self(0, 1)

    def __call__(self, done: int, total: int) -> None:
        if self.show is not None:
            self.show(
                self.part.replace("_", " "), self.done + self.shares[self.part] * done / total
            )

    def end(self) -> None:
        if self.show is not None:
            self.show("done", 1.0)
