"""What helps against each finding, in the words of the front end that is in use.

Code and options stand between backticks; a test runs all of them.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["FRONTS", "REMEDIES", "Front", "remedy"]

# "python": gradcore in Python. "torch": gradcore.torch. "csv": `gradcore train csv`. "command":
# `gradcore train brackets`, `dna` and `prophage`. "task": `gradcore train adding`, `copy`, `mqar`
# and `enhancer`.
Front = Literal["python", "torch", "csv", "command", "task"]
FRONTS: tuple[Front, ...] = ("python", "torch", "csv", "command", "task")

_TORCH_BOUND = (
    "`gradcore.torch.constrain(model, optimizer, [gradcore.constrain.SpectralNorm(1.0)])`"
)
_COMMAND_BOUND = "`--constrain spectral --limit 1.0`"
_PYTHON_ADAM = (
    "`gd.optim.Adam(params, clip=gd.clip.GlobalNorm(1.0), "
    "constraints=[gd.constrain.SpectralNorm(1.0)])`"
)
_PYTHON_RESET = "`gd.value_and_grad(net, params, x, y, loss='mse', reset=starts)`"
_COMMAND_EXPLODES = (
    "The training clips by norm already. Remove the cause by a bound on the spectral norm of "
    f"weight_hh, {_COMMAND_BOUND}."
)
_COMMAND_CHAOS = (
    "End the chaos by a bound on the spectral norm of weight_hh: train again with "
    f"{_COMMAND_BOUND}."
)
_COMMAND_VANISHES = (
    "If what matters lies further back, train again with `--cell lstm`, or with a skip connection, "
    "`--skip {lag}`."
)
_TASK_VANISHES = "If what matters lies further back, train again with `--cell lstm`."

REMEDIES: dict[str, dict[Front, str]] = {
    "overflow": {
        "python": "Keep the state from growing: start with smaller recurrent weights, "
        "`net.init(gain=0.9)`, use tanh, a gated cell or `gd.AntisymmetricRNN(8, 8)`, or add a "
        "skip connection that cannot grow, `gd.Skip({lag}, kind='mix')`.",
        "torch": f"Keep the state from growing: hold the spectral norm of weight_hh, "
        f"{_TORCH_BOUND}, or use tanh, a gated layer or `gradcore.torch.AntisymmetricRNN(8, 8)`.",
        "csv": f"Keep the state from growing: train again with {_COMMAND_BOUND}, or with "
        "`--cell lstm`.",
        "command": f"Keep the state from growing: train again with {_COMMAND_BOUND}.",
        "task": f"Keep the state from growing: train again with {_COMMAND_BOUND}, or with "
        "`--cell lstm`.",
    },
    "explodes": {
        "python": "Clip by norm and remove the cause by a bound on the spectral norm of weight_hh, "
        f"{_PYTHON_ADAM}, or start with smaller recurrent weights, `net.init(gain=0.9)`. Where "
        f"independent parts follow each other in a sequence, {_PYTHON_RESET} stops the gradient "
        "between them.",
        "torch": "Clip by norm, `gradcore.torch.clip_grad_norm_(model, 1.0)`, and remove the cause "
        f"by a bound on the spectral norm of weight_hh, {_TORCH_BOUND}. Where independent parts "
        "follow each other in a sequence, `layer(x, reset=starts)` stops the gradient between "
        "them.",
        "csv": _COMMAND_EXPLODES,
        "command": _COMMAND_EXPLODES,
        "task": _COMMAND_EXPLODES,
    },
    "chaos": {
        "python": "Clipping limits the size of a step, but does not give it a useful direction. "
        f"End the chaos by a bound on the spectral norm of weight_hh, {_PYTHON_ADAM}, or start "
        "with smaller recurrent weights, `net.init(gain=0.9)`.",
        "torch": "Clipping limits the size of a step, but does not give it a useful direction. End "
        f"the chaos by a bound on the spectral norm of weight_hh, {_TORCH_BOUND}.",
        "csv": _COMMAND_CHAOS,
        "command": _COMMAND_CHAOS,
        "task": _COMMAND_CHAOS,
    },
    # Said after another remedy, where the weights are not those of the default initialisation.
    "default": {
        "python": "The default initialisation, `net.init(seed=0)`, makes weight_hh orthogonal with "
        "gain 1; these weights are {gain:.2g} times as large in the root mean square.",
        "torch": "The default initialisation, `layer.reset_parameters()`, gives weight_hh a root "
        "mean square of 0.58 / sqrt(H); here it is {gain:.2g} / sqrt(H).",
        "csv": "",
        "command": "",
        "task": "",
    },
    "vanishes": {
        "python": "If what matters lies further back, open the memory gates at the start, "
        "`net.init(chrono={steps})`, or add a skip connection, `gd.Skip({lag}, kind='mix')`. The "
        "reach of a trained net shows what it has learned to keep.",
        "torch": "If what matters lies further back, open the memory gates at the start, "
        "`layer.init_chrono_({steps})`, or add a skip connection, "
        "`gradcore.torch.LSTM(8, 8, skip=gradcore.Skip({lag}, kind='mix'))`. The reach of a "
        "trained net shows what it has learned to keep.",
        "csv": "If what matters lies further back, train again with `--chrono {steps}`, which "
        "opens the memory gates at the start, or with a skip connection, `--skip {lag}`.",
        "command": "If what matters lies further back, train again with a skip connection, "
        "`--skip {lag}`.",
        "task": "If what matters lies further back, train again with a connection to the output "
        "one step ago, `--cell skip`.",
    },
    "vanishes without gates": {
        "python": "If what matters lies further back, use an LSTM or GRU with "
        "`net.init(chrono={steps})` or `gd.AntisymmetricRNN(8, 8)`, or add a skip connection, "
        "`gd.Skip({lag}, kind='mix')`.",
        "torch": "If what matters lies further back, use an LSTM or GRU and "
        "`layer.init_chrono_({steps})` or `gradcore.torch.AntisymmetricRNN(8, 8)`, or add a skip "
        "connection, `gradcore.torch.RNN(8, 8, skip=gradcore.Skip({lag}, kind='mix'))`.",
        "csv": "If what matters lies further back, train again with "
        "`--cell lstm --chrono {steps}`, with `--cell antisymmetric`, or with a skip connection, "
        "`--skip {lag}`.",
        "command": _COMMAND_VANISHES,
        "task": _TASK_VANISHES,
    },
    # The antisymmetric RNN has no gates either.
    "vanishes in a flow": {
        "python": "If what matters lies further back, take less diffusion, "
        "`gd.AntisymmetricRNN(8, 8, diffusion=0.0)`, or add a skip connection, "
        "`gd.Skip({lag}, kind='mix')`.",
        "torch": "If what matters lies further back, take less diffusion, "
        "`gradcore.torch.AntisymmetricRNN(8, 8, diffusion=0.0)`, or add a skip connection, "
        "`gradcore.torch.AntisymmetricRNN(8, 8, skip=gradcore.Skip({lag}, kind='mix'))`.",
        "csv": "If what matters lies further back, train again with "
        "`--cell lstm --chrono {steps}`, or with a skip connection, `--skip {lag}`.",
        "command": _COMMAND_VANISHES,
        "task": _TASK_VANISHES,
    },
    "forgets": {
        "python": "For a longer memory use `net.init(chrono={steps})`.",
        "torch": "For a longer memory use `layer.init_chrono_({steps})`.",
        "csv": "For a longer memory train again with `--chrono {steps}`.",
        "command": "",
        "task": "",
    },
    "range": {
        "python": "gradcore's gradient has the right direction all the same; clip by norm to use "
        "it, `gd.optim.Adam(params, clip=gd.clip.GlobalNorm(1.0))`.",
        "torch": "gradcore's gradient has the right direction all the same; clip by norm to use "
        "it, `gradcore.torch.clip_grad_norm_(model, 1.0)`.",
        "csv": "",
        "command": "",
        "task": "",
    },
    "steep": {
        "python": "Clip by norm, `gd.optim.Adam(params, clip=gd.clip.GlobalNorm(1.0))`.",
        "torch": "Clip by norm, `gradcore.torch.clip_grad_norm_(model, 1.0)`.",
        "csv": "",
        "command": "",
        "task": "",
    },
    "cut": {
        "python": "Train with the exact gradient over all steps.",
        "torch": "Train with the exact gradient over all steps.",
        "csv": "Train with the exact gradient over all steps: `--window {steps}`.",
        "command": "Train with the exact gradient over all steps.",
        "task": "",
    },
    "uncut": {
        "python": "Nothing is lost by `gd.data.Stream(x, y, batch_size=1, k1={cut})` as the net is "
        "now; the exact gradient shows when that changes.",
        "torch": "Nothing is lost by detaching the state every {cut} steps as the net is now; the "
        "exact gradient shows when that changes.",
        "csv": "Nothing is lost by `--window {cut}` as the net is now.",
        "command": "",
        "task": "",
    },
    "saturated": {
        "python": "Use smaller inputs or weights (`gd.LayerNorm({width})` before the layer) or a "
        "lower learning rate.",
        "torch": "Use smaller inputs or weights (`torch.nn.LayerNorm({width})` before the layer) "
        "or a lower learning rate.",
        "csv": "Train again with a lower learning rate, such as `--lr 0.001`.",
        "command": "Train again with a lower learning rate.",
        "task": "Train again with a lower learning rate, such as `--lr 0.001`.",
    },
    "apart": {
        "python": "Residual layers, `gd.LSTM(8, 8, residual=True)`, or `gd.LayerNorm({width})` "
        "between layers make them more alike; Adam evens out most of the difference.",
        "torch": "`torch.nn.LayerNorm({width})` between layers makes them more alike; Adam evens "
        "out most of the difference.",
        "csv": "Use fewer layers, such as `--layers 1`; Adam, which trains the net, evens out most "
        "of the difference.",
        "command": "Adam, which trains the net, evens out most of the difference.",
        "task": "Adam, which trains the net, evens out most of the difference.",
    },
}


def remedy(name: str, front: Front, **numbers: float) -> str:
    """The sentence of a remedy with its numbers."""
    return REMEDIES[name][front].format(**numbers)
