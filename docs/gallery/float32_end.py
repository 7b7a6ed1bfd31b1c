"""Makes docs/gallery/float32-end.png, the picture of the README: where float32 gradients end.

Computes the gradient of a loss at the last step with respect to the hidden state of every step, for
two plain RNNs with the same weights in gradcore and in PyTorch, both in float32. It takes
half a minute and needs PyTorch.

    python docs/gallery/float32_end.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import gradcore as gd

HERE = Path(__file__).parent
STEPS, INPUTS, HIDDEN = 10_000, 4, 32
# The gain multiplies the initial recurrent weights: at 0.9 gradients vanish, at 1.6 they explode.
GAINS = {"vanishing": 0.9, "exploding": 1.6}
OURS, THEIRS, TEXT = "#2b8cd9", "#e0642f", "#808080"  # legible on white and on a dark page


def main() -> None:
    x = (0.1 * np.random.default_rng(0).standard_normal((STEPS, 1, INPUTS))).astype(np.float32)
    y = np.ones((1, 1), np.float32)
    net = gd.Stack(gd.RNN(INPUTS, HIDDEN), gd.Linear(HIDDEN, 1))
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    axis = figure.subplots()
    limits = np.finfo(np.float32)
    band = np.log10([limits.smallest_subnormal, limits.max])
    axis.axhspan(*band, color=TEXT, alpha=0.2, linewidth=0)
    axis.text(
        STEPS - 100, band.mean(), "what float32 can hold", color=TEXT, ha="right", va="center"
    )
    for name, gain in GAINS.items():
        params = net.init(seed=0, gain=gain)
        ours, theirs = of_gradcore(net, params, x, y), of_pytorch(params, x, y)
        # PyTorch's curve ends before the first distance at which its norm is 0, inf or NaN.
        end = int(np.argmin(np.isfinite(theirs) & (theirs > 0)))
        up = gain > 1
        print(f"{name}: PyTorch {theirs[end]:g} from {end:,} steps, gradcore 10^{ours[-1]:.1f}")
        axis.plot(ours, color=OURS, linewidth=4, alpha=0.7)
        axis.plot(np.log10(theirs[:end]), color=THEIRS, linewidth=1.5)
        axis.plot(end - 1, np.log10(theirs[end - 1]), "X", color=THEIRS, markersize=9)
        axis.annotate(
            f"PyTorch: {theirs[end]:g} from {end:,} steps on",
            (end, band[1] if up else band[0]),
            xytext=(300, 190 if up else -260),
            color=THEIRS,
            arrowprops={"arrowstyle": "-", "color": THEIRS},
        )
        axis.text(
            STEPS - 100,
            130 if up else -230,
            f"gradcore, {name}: $10^{{{ours[-1]:.0f}}}$ after {STEPS:,} steps",
            color=OURS,
            ha="right",
        )
    axis.set(xlabel="steps back from the loss", ylabel="norm of the gradient", xlim=(0, STEPS))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:.0f}}}$")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[:].set_color(TEXT)
    axis.tick_params(color=TEXT, labelcolor=TEXT)
    axis.xaxis.label.set_color(TEXT)
    axis.yaxis.label.set_color(TEXT)
    figure.savefig(HERE / "float32-end.png", dpi=160, transparent=True)


def of_gradcore(net: gd.Stack, params: gd.Params, x: Any, y: Any) -> Any:
    """Returns log10 |dL/dh| by distance from the last step, [T]."""
    found = gd.jacobian.hidden_gradients(
        net, params, x, y, loss=gd.loss.MeanSquaredError(step="last"), norms_only=True
    )
    return found.norm_log10[::-1, 0]


def of_pytorch(params: gd.Params, x: Any, y: Any) -> Any:
    """Returns |dL/dh| by distance from the last step, [T]. Only the norms are float64."""
    weights = {name: torch.from_numpy(array) for name, array in params.items()}
    h = torch.zeros(1, weights["0.weight_hh"].shape[1])
    states = []
    for row in torch.from_numpy(x):
        before = row @ weights["0.weight_ih"].T + h @ weights["0.weight_hh"].T
        h = torch.tanh(before + weights["0.bias_ih"] + weights["0.bias_hh"]).requires_grad_()
        h.retain_grad()
        states.append(h)
    out = h @ weights["1.weight"].T + weights["1.bias"]
    torch.mean((out - torch.from_numpy(y)) ** 2).backward()
    return np.array([float(state.grad.double().norm()) for state in reversed(states)])


if __name__ == "__main__":
    main()
