"""Turns the numbers of a diagnosis into sentences, each with its numbers and its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._net.layers import Recurrent
from ..horizon import Reach
from ._measured import Measured
from ._remedies import Front, remedy

__all__ = ["Finding", "findings_of", "memory_length"]

Level = Literal["warning", "note", "good"]

# A gradient counts as vanished where it is down to 1 % of its size at the last step (FRACTION). It
# reaches far if that takes at least nine tenths of the sequence (FAR), and not far if it takes less
# than a quarter (NEAR).
FRACTION = 0.01
FAR, NEAR = 0.9, 0.25
# log10 of the growth on the way back beyond which a gradient explodes; up to a factor of 100 it
# counts as fluctuation.
EXPLODED = 2.0
# log10 of the smallest normal float32 and of the largest float32.
TINY, HUGE = -37.9, 38.5
# Truncation counts as harmless if it changes the gradient by at most 1 % of its norm.
BIAS = 0.01
# The share of the gradient that counts as nearly all of it.
NEARLY_ALL = 0.95
# log10 of the ratio of gradient norms between layers beyond which there is a warning: Adam evens
# out a factor of a thousand, and sums in float32 do not suffer from it either.
APART = 3.0
# A unit counts as stuck if it is saturated or dead at this share of its steps or more.
STUCK = 0.95
# log10 of the norm of the whole gradient beyond which there is a warning: in an untrained net of
# ordinary size it is 0.01 to 10.
STEEP = 2.0


@dataclass(frozen=True)
class Finding:
    """A sentence of the verdict.

    about: the topic, such as "reach". text: what was found, with the numbers. remedy: what would
    help, or "" if nothing needs to be done. values: the numbers behind the text, by name.
    """

    level: Level
    about: str
    text: str
    remedy: str = ""
    values: dict[str, float] = field(default_factory=dict)


def findings_of(measured: Measured, front: Front = "python") -> tuple[Finding, ...]:
    """All findings: first warnings, then notes, then those of level "good".

    front: the front end in whose words remedies are given. Findings with one cause give one advice.
    """
    found = _of_one_cause(
        [
            *_overflow(measured, front),
            *_reach(measured, front),
            *_exponents(measured, front),
            *_range(measured, front),
            *_windows(measured),
            *_truncation(measured, front),
            *_gates(measured, front),
            *_amplification(measured),
            *_parameters(measured, front),
        ],
        measured,
        front,
    )
    order = ("warning", "note", "good")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _of_one_cause(found: list[Finding], m: Measured, front: Front) -> list[Finding]:
    """Findings that say in several ways that gradients grow, with one advice.

    In a chaotic net they become one finding. The findings on truncation and windows are then left
    out, because the gradient itself says little.
    """
    growing = [finding for finding in found if _grows(finding)]
    if len(growing) < 2:
        return found
    exponent = next((finding for finding in growing if finding.about == "lyapunov"), None)
    bounded = any(layer.core_nonlinearity == "tanh" for layer in m.net.recurrent)
    if exponent is None or not bounded:
        return [
            replace(finding, remedy="") if finding in growing[1:] else finding for finding in found
        ]
    values = {key: value for finding in reversed(growing) for key, value in finding.values.items()}
    chaos = Finding(
        "warning",
        "lyapunov",
        " ".join(finding.text for finding in [exponent, *(f for f in growing if f is not exponent)])
        + " The net is chaotic: its gradient is exact for changes too small to matter, and says "
        "little about what a step of the optimizer does.",
        remedy("chaos", front) + _default_of_any(m, front),
        values,
    )
    pointless = ("truncation", "windows")
    return [chaos, *(f for f in found if f not in growing and f.about not in pointless)]


def _grows(finding: Finding) -> bool:
    grown = finding.values.get("log10_growth", 0.0) > EXPLODED
    return finding.level == "warning" and (
        grown or bool({"log10_largest", "log10_norm"} & set(finding.values))
    )


def _default_of_any(m: Measured, front: Front) -> str:
    for name, layer in zip(m.names, m.net.recurrent, strict=True):
        told = _default(m, name, layer, front, small=False)
        if told:
            return told
    return ""


def _overflow(m: Measured, front: Front) -> Iterator[Finding]:
    if m.overflow is not None:
        at = m.overflow
        where = m.names[at.layer] if 0 <= at.layer < len(m.names) else "the head"
        yield Finding(
            "warning",
            "overflow",
            f"The forward pass overflows in {where} at step {at.step:,} of sequence {at.sequence}; "
            "there is no gradient to scale.",
            remedy("overflow", front, lag=_lag(m.steps)),
            {"step": at.step},
        )


def _reach(m: Measured, front: Front) -> Iterator[Finding]:
    if m.reach is None:
        return
    for name, layer, reach in zip(m.names, m.net.recurrent, m.reach, strict=True):
        longer = np.flatnonzero(reach.ends > 1)
        if not len(longer):
            continue
        ends = reach.ends[longer] - 1
        last = reach.norm_log10[ends, longer]
        alive = np.isfinite(last)
        if not alive.any():
            yield Finding(
                "warning",
                "reach",
                f"{name}: no gradient of the last output arrives at all.",
                "Look for a layer above it whose weights are zero or whose units are all dead.",
                {"sequences": len(longer)},
            )
            continue
        grown = float(np.median((reach.norm_log10[0, longer] - last)[alive]))
        steps = int(np.median(ends[alive]))
        length = memory_length(reach)
        values = {"memory_length": length, "steps": steps, "log10_growth": grown}
        if grown > EXPLODED:
            yield Finding(
                "warning",
                "reach",
                f"{name}: the gradient of the last output grows on its way back, to "
                f"10^{grown:.3g} times its size after {steps:,} steps "
                f"({10 ** (grown / steps):.4f} per step): it explodes.",
                remedy("explodes", front) + _default(m, name, layer, front, small=False),
                values,
            )
        elif m.net.pool is not None and m.net.pool.kind != "last":
            yield Finding(
                "note",
                "reach",
                f"{name}: the pool ({m.net.pool.kind}) reads every step itself, so that a gradient "
                f"arrives at each; at the first it is 10^{grown:.3g} times that at the last. How "
                "long the layer remembers cannot be told from it.",
                values=values,
            )
        elif length >= FAR * steps:
            yield Finding(
                "good",
                "reach",
                f"{name}: the gradient of the last output reaches all {steps:,} steps back; at the "
                f"first it is {10**grown:.2g} times its size.",
                values=values,
            )
        elif _levels_off(reach.norm_log10[:, longer[alive]], ends[alive]):
            yield Finding(
                "good",
                "reach",
                f"{name}: the gradient of the last output is down to 1 % after {length:,} steps, "
                f"but then it lasts: at the first of {steps:,} it is 10^{grown:.3g}. Few "
                "directions carry a long memory.",
                values=values,
            )
        else:
            size = "0" if np.isneginf(grown) else f"10^{grown:.3g} of it"
            yield Finding(
                "warning" if length < NEAR * steps else "note",
                "reach",
                f"{name}: the gradient of the last output is down to 1 % after {length:,} of "
                f"{steps:,} steps, and {size} at the first: it vanishes.",
                _longer(layer, m.steps, front) + _default(m, name, layer, front, small=True),
                values,
            )


def _levels_off(logs: NDArray[np.float64], ends: NDArray[np.int64]) -> bool:
    """Whether the gradient falls by less than a factor of 10 over the far half of the sequence."""
    if not np.isfinite(logs[0]).all():
        return False
    columns = np.arange(logs.shape[1])
    return bool(np.median(logs[0] - logs[ends // 2, columns]) > -1.0)


def memory_length(reach: Reach) -> int:
    """The steps after which the gradient is down to FRACTION, as the median over sequences.

    Sequences of one step, and those that no gradient arrives in, do not count; 0 without others.
    """
    longer = np.flatnonzero(reach.ends > 1)
    alive = np.isfinite(reach.norm_log10[reach.ends[longer] - 1, longer])
    lengths = reach.memory_length(FRACTION)[longer][alive]
    return int(np.median(lengths)) if len(lengths) else 0


def _lag(steps: int) -> int:
    """A lag of a skip connection that shortens a path of this many steps a hundredfold."""
    return max(2, steps // 100)


def _longer(layer: Recurrent, steps: int, front: Front) -> str:
    name = "vanishes without gates"
    if layer.cell.memory_gate is not None:
        name = "vanishes"
    elif layer.cell.antisymmetric:
        name = "vanishes in a flow"
    lag = _lag(steps)
    if layer.skip is not None:
        lag = max(lag, 2 * layer.skip.lag)
    return remedy(name, front, steps=max(3, steps), lag=lag)


def _default(m: Measured, name: str, layer: Recurrent, front: Front, *, small: bool) -> str:
    """Advice to use the default initialisation if weight_hh is clearly smaller or larger."""
    # Only dense weights and blocks begin orthogonal.
    if layer.cell.antisymmetric or layer.recurrent in ("diagonal", "none"):
        return ""
    sizes = [
        size for key, size in m.sizes.items() if key.startswith(f"{name.split('.')[0]}.weight_hh")
    ]
    # An orthogonal block [H, H] of gain 1 has the norm sqrt(H).
    gain = 10 ** float(np.mean(sizes)) / (len(layer.cell.gates) * layer.hidden_size) ** 0.5
    low, high = (0.4, 0.8) if front == "torch" else (0.8, 1.2)
    if (small and gain >= low) or (not small and gain <= high):
        return ""
    told = remedy("default", front, gain=gain)
    return f" {told}" if told else ""


def _exponents(m: Measured, front: Front) -> Iterator[Finding]:
    if m.lyapunov is None:
        return
    exponent = float(np.median(m.lyapunov.exponents[:, 0]))
    if not np.isfinite(exponent):
        return
    errors = m.lyapunov.standard_error[:, 0]
    error = float(np.median(errors))
    known = "" if np.isnan(error) else f" +- {error:.1g}"
    total = exponent * m.steps / np.log(10.0)
    values = {"exponent": exponent, "standard_error": error, "log10_growth": total}
    head = f"The largest Lyapunov exponent is {exponent:.4g}{known} per step: "
    sure = not abs(exponent) <= 2 * error
    if exponent > 0 and sure and total > EXPLODED:
        yield Finding(
            "warning",
            "lyapunov",
            f"{head}nearby states diverge, and gradients grow by a factor of 10^{total:.3g} over "
            f"{m.steps:,} steps.",
            remedy("explodes", front),
            values,
        )
    elif exponent < 0 and sure:
        yield Finding(
            "note",
            "lyapunov",
            f"{head}perturbations, and gradients, fade with a time constant of "
            f"{-1 / exponent:,.0f} steps.",
            values=values,
        )
    else:
        yield Finding(
            "good",
            "lyapunov",
            f"{head}the net is at the edge between growth and decay, where gradients reach "
            "furthest.",
            values=values,
        )


def _range(m: Measured, front: Front) -> Iterator[Finding]:
    """Findings about gradients that leave the range of float32, where only scaling keeps them."""
    if m.hidden is None:
        return
    norms = np.concatenate([layer.norm_log10 for layer in m.hidden], axis=1)
    finite = norms[np.isfinite(norms)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    if high > HUGE:
        yield Finding(
            "warning",
            "range",
            f"dL/dh reaches 10^{high:.3g}: float32 ends at 10^38, so a framework without scaled "
            "adjoints gives NaN.",
            remedy("range", front),
            {"log10_largest": high},
        )
    if low < TINY:
        where = np.flatnonzero((norms < TINY).all(axis=1))
        before = int(where.max()) if len(where) else -1
        told = f" in all layers up to step {before:,}" if before >= 0 else " at some steps"
        yield Finding(
            "note",
            "range",
            f"dL/dh falls to 10^{low:.3g}, below what float32 holds{told}: a framework without "
            "scaled adjoints has 0 there.",
            values={"log10_smallest": low, "step": before},
        )


def _windows(m: Measured) -> Iterator[Finding]:
    if m.windows is None:
        return
    share, borders = m.windows.share, m.windows.borders
    late = np.cumsum(share[::-1])
    enough = np.flatnonzero(late >= NEARLY_ALL)
    if not share.any():
        yield Finding(
            "warning",
            "windows",
            "The gradient of the parameters is exactly 0.",
            "Look for dead units, a loss whose weights are all 0, or targets that do not matter.",
        )
        return
    begin = int(borders[len(share) - 1 - int(enough[0])]) if len(enough) else 0
    steps = int(borders[-1])
    if steps - begin <= NEAR * steps:
        yield Finding(
            "note",
            "windows",
            f"{late[int(enough[0])]:.0%} of the parameters' gradient comes from the last "
            f"{steps - begin:,} of {steps:,} steps.",
            "Earlier steps hardly train the net: see the reach of the gradient.",
            {"steps": steps - begin, "share": float(late[int(enough[0])])},
        )
        return
    top = int(share.argmax())
    if share[top] > 0.5 and len(share) > 2:
        yield Finding(
            "note",
            "windows",
            f"One window, steps {borders[top]:,} to {borders[top + 1] - 1:,}, gives "
            f"{share[top]:.0%} of the parameters' gradient.",
            "Look at the data and the targets there.",
            {"first": float(borders[top]), "share": float(share[top])},
        )


def _truncation(m: Measured, front: Front) -> Iterator[Finding]:
    if m.truncation is None:
        return
    needed = m.truncation.needed(BIAS)
    if needed is None:
        longest, error = int(m.truncation.lengths[-1]), float(m.truncation.error[-1])
        yield Finding(
            "note",
            "truncation",
            f"Truncating the gradient every {longest:,} steps would change it by {error:.1%}.",
            remedy("cut", front, steps=m.steps),
            {"truncation": longest, "error": error},
        )
    elif needed <= NEAR * m.steps:
        yield Finding(
            "note",
            "truncation",
            f"Truncated backpropagation with K = {needed:,} changes the gradient by {BIAS:.0%} of "
            "its norm or less on this data.",
            remedy("uncut", front, cut=needed),
            {"truncation": needed},
        )


def _gates(m: Measured, front: Front) -> Iterator[Finding]:
    for name, layer, found in zip(m.names, m.net.recurrent, m.gates or (), strict=False):
        constants = found.time_constant
        if constants is not None:
            middle, longest = float(np.median(constants)), float(constants.max())
            gate = str(layer.cell.memory_gate)
            opened = float(found.mean[found.gates.index(gate)].mean())
            short = longest < NEAR * m.steps
            yield Finding(
                "note",
                "gates",
                f"{name}: the gate {gate} is {opened:.3g} open on average; the median unit "
                f"remembers for {middle:,.3g} steps, the longest for {longest:,.3g}, of "
                f"{m.steps:,}.",
                remedy("forgets", front, steps=max(3, m.steps)) if short else "",
                {"mean": opened, "median_steps": middle, "longest_steps": longest},
            )
        for gate, share in zip(found.gates, found.saturated, strict=True):
            dead = layer.gate_function(gate) == "relu"
            stuck = float((share >= STUCK).mean())
            if stuck < 0.5 or (gate == layer.cell.memory_gate and not dead):
                continue
            yield Finding(
                "warning",
                "gates",
                f"{name}: {stuck:.0%} of the units are {'dead' if dead else 'saturated'} at "
                f"{STUCK:.0%} of the steps or more"
                + ("." if dead else f" in {gate}: hardly any gradient passes there."),
                remedy("saturated", front, width=layer.input_size),
                {"share": stuck},
            )


def _amplification(m: Measured) -> Iterator[Finding]:
    if m.amplification is None:
        return
    largest, bound = float(m.amplification.norm.max()), float(np.max(m.amplification.log10_bound))
    if not np.isfinite(bound):
        return
    total = bound * m.steps
    yield Finding(
        "note",
        "amplification",
        f"A single step stretches some direction by a factor of up to {largest:.3g}, and of "
        f"{10**bound:.3g} in the geometric mean; if all steps stretched the same direction, the "
        f"product would be 10^{total:.3g} over {m.steps:,} steps.",
        values={"largest": largest, "log10_bound": total},
    )


def _parameters(m: Measured, front: Front) -> Iterator[Finding]:
    if m.gradients is None:
        return
    dead = [name for name, log in m.gradients.items() if np.isneginf(log)]
    if dead and m.gradients_complete:
        yield Finding(
            "warning",
            "parameters",
            f"{', '.join(dead)}: the gradient is exactly 0.",
            "These parameters do not learn from this batch: look for dead relu units and zero "
            "weights above.",
            {"count": len(dead)},
        )
    recurrent = {
        name: log
        for name, log in m.gradients.items()
        if name.endswith("weight_hh") and np.isfinite(log)
    }
    if len(recurrent) > 1:
        low, high = (pick(recurrent, key=recurrent.__getitem__) for pick in (min, max))
        apart = recurrent[high] - recurrent[low]
        if apart > APART:
            yield Finding(
                "warning",
                "parameters",
                f"The gradient of {low} is 10^{apart:.2g} times smaller than that of {high}.",
                remedy("apart", front, width=m.net.recurrent[0].output_size),
                {"log10_ratio": apart},
            )
    squares = np.array([log for log in m.gradients.values() if np.isfinite(log)])
    if len(squares):
        top = float(squares.max())
        total = float(top + 0.5 * np.log10(np.sum(10.0 ** (2 * (squares - top)))))
        if total > STEEP:
            yield Finding(
                "warning",
                "parameters",
                f"The norm of the whole gradient is 10^{total:.3g}.",
                remedy("steep", front),
                {"log10_norm": total},
            )
