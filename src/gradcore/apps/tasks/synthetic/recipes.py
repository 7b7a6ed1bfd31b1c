"""Recipes: the default net and training of each task, by cell and length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradcore as gd

from ...._net.initial import ChronoSpread, RecurrentInit
from ...._net.layers import Layer
from .adding import Adding
from .copying import Copying
from .enhancer import Enhancer
from .mqar import Mqar
from .task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Adding, Copying, Mqar, Enhancer)}
CELLS = ("gru", "lstm", "rnn", "skip", "tanh")


# Gradients differ widely when the length has just grown, and with beta2 = 0.999 Adam would remember
# their squares for too long.
BETAS = (0.9, 0.99)
CLIP = 1.0
# The decay of averaged parameters, which an adaptive recipe evaluates; its stages then end sooner.
AVERAGE = 0.95
WARM_UP = 100
LEAST_RATE = 0.05

# The initial share a of the skip connection, the same for all units: two seeds of three had learned
# to add at T = 1,000 after 1,800 updates. When it was drawn between 1/2 and 1 - 1/T, like the gates
# of chrono initialisation, only one of three had, after 2,200.
LEAK = 0.99


@dataclass(frozen=True)
class Recipe:
    """The net and its training for one task.

    cell: lstm, gru, rnn, skip or tanh, see `build`. hidden: units H. batch: sequences B. lr: the
    rate of Adam with BETAS, where the gradient's norm is clipped to CLIP; see `Rate`. halve: the
    number of updates at full length that halve the rate, 0 for a constant rate. chrono: whether the
    gates' time constants start spread up to the length of the sequences. first, grow: the number of
    updates in the first stage, and in each following stage until the full length is reached;
    first = 0 means the full length from the start. every: the number of updates between
    evaluations. updates: the most updates. constrain, limit: see gradcore.constrain.by_name. front:
    units of another layer of the same cell below, 0 for none. adaptive: a stage ends when the net
    passes an evaluation on held-out sequences of it, instead of after `first` or `grow` updates;
    and every second update trains on one of the earlier stages in turn, so that the net does not
    learn a single length only. spread: see gradcore.init.chrono_bias.
    """

    cell: str
    hidden: int
    batch: int
    lr: float
    halve: int
    chrono: bool
    first: int
    grow: int
    every: int
    updates: int
    constrain: str | None = None
    limit: float = 1.0
    front: int = 0
    adaptive: bool = False
    spread: ChronoSpread = "even"

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise gd.ArgumentError(f"cell must be one of {', '.join(CELLS)}; got {self.cell!r}.")

    def stage(self, task: Task, update: int) -> Task:
        """The stage that update number `update`, counted from 0, trains on."""
        if self.first == 0:
            return task
        return task.stage(max(0, 1 + (update - self.first) // self.grow))

    def full_at(self, task: Task) -> int:
        """The first update at the full length; 0 if it is not known in advance."""
        if self.adaptive or self.first == 0 or task.stage(0) == task:
            return 0
        levels = next(level for level in itertools.count(1) if task.stage(level) == task)
        return self.first + (levels - 1) * self.grow


class Rate(gd.schedule.Schedule):
    """A factor of the learning rate that rises over WARM_UP updates and falls after the last stage.

    Stages need a large rate, because each is a new task, and the last percents of accuracy need a
    small one. Without stages the factor does not fall.
    """

    kind = "stages"

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.full = recipe.full_at(task)
        self.halve = recipe.halve if recipe.first > 0 else 0

        self._changes: Sequence[Callable[[], None]] = ()

    def when_scored(self, changes: Sequence[Callable[[], None]]) -> None:
        """Makes changes to the training once the trainer has recorded the current score."""
        self._changes = changes

    def observe(self, score: float) -> None:
        """Makes the changes; the trainer lets no signal in between."""
        super().observe(score)
        changes, self._changes = self._changes, ()
        for change in changes:
            change()

    def _factor(self, step: int) -> float:
        rising = min(1.0, (step + 1) / (WARM_UP + 1))
        if self.halve == 0:
            return rising
        return float(rising * max(LEAST_RATE, 0.5 ** (max(0, step - self.full) / self.halve)))


# Here `updates` counts those at the full length; `default` adds those of the stages.
_BASE = {
    "adding": Recipe("gru", 64, 32, 5e-3, 0, True, 800, 200, every=100, updates=3_000),
    "copy": Recipe("lstm", 128, 16, 5e-3, 1_000, True, 1_500, 800, every=200, updates=10_000),
    # The gradient norm of a net that has just learned a distance exceeds 50, and an update at the
    # next distance may destroy what it has learned; rescue.py restores it then. At a rate of 3e-3
    # this happened so often that the rate fell too low. With a spectral norm of at most 1 it does
    # not happen, but some seeds then never leave the first stage; with at most 2 it happens again.
    "enhancer": Recipe(
        "gru",
        32,
        64,
        1.5e-3,
        0,
        True,
        1,
        1,
        every=25,
        updates=10_000,
        front=64,
        adaptive=True,
        spread="log",
    ),
    "mqar": Recipe("lstm", 128, 32, 5e-3, 1_000, False, 1_500, 1_000, every=200, updates=10_000),
}
# With a rate of 5e-4 the rnn learns to add at T = 200 after 1,300 updates, but overflows at
# T = 1,000 for both seeds tried; with 2e-4 it does not overflow, and learns slowly.
_SHORT_FOR_RNN = 300
_OTHER: dict[tuple[str, str], dict[str, Any]] = {
    ("adding", "rnn"): {"lr": 2e-4},
    ("adding", "tanh"): {"lr": 1e-3},
    ("copy", "rnn"): {"lr": 5e-4},
    ("mqar", "rnn"): {"lr": 5e-4},
    ("adding", "skip"): {"lr": 3e-3},
}


def default(task: Task, cell: str | None = None) -> Recipe:
    """The recipe of a task at its length; cell: another cell than the best for the task."""
    base = _BASE[task.name]
    made = base if cell is None else replace(base, cell=cell, **_OTHER.get((task.name, cell), {}))
    if (task.name, cell) == ("adding", "rnn") and task.length <= _SHORT_FOR_RNN:
        made = replace(made, lr=5e-4)
    return replace(made, updates=made.updates + made.full_at(task))


def build(task: Task, recipe: Recipe) -> gd.Stack:
    """The net of a recipe: [Embedding], [front], one recurrent layer, Linear.

    rnn: an RNN with relu whose recurrent matrix U starts as the identity (Le, Jaitly, Hinton 2015).
    tanh: the classical RNN, whose U starts orthogonal. skip: an RNN with a learned connection to
    its output one step ago, h_t = (1-a)*relu(W x + U h_(t-1) + b) + a*h_(t-1), where each unit has
    its own a, which starts at LEAK. With tanh instead of relu it did not learn to add at T = 100 in
    7,000 updates.
    """
    embedding, width = task.first_layer()
    layers: list[Layer] = [] if embedding is None else [embedding]
    if recipe.front:
        layers.append(_layer(recipe.cell, width, recipe.front))
        width = recipe.front
    layers += [_layer(recipe.cell, width, recipe.hidden), gd.Linear(recipe.hidden, task.outputs)]
    return gd.Stack(*layers)


def _layer(cell: str, width: int, hidden: int) -> gd.Recurrent:
    if cell == "lstm":
        return gd.LSTM(width, hidden)
    if cell == "gru":
        return gd.GRU(width, hidden)
    if cell == "rnn":
        return gd.RNN(width, hidden, nonlinearity="relu")
    if cell == "tanh":
        return gd.RNN(width, hidden)
    skip = gd.Skip(1, kind="mix", value=LEAK, learned=True)
    return gd.RNN(width, hidden, nonlinearity="relu", skip=skip)


def initial(net: gd.Stack, task: Task, recipe: Recipe, seed: int) -> gd.Params:
    """Initial parameters. Recipe.chrono applies to the top recurrent layer only.

    The recurrent matrix of skip starts as half an orthogonal one, so that h is bounded at first
    although relu is not. Reference for chrono: Tallec and Ollivier 2018.
    """
    gain = 0.5 if recipe.cell == "skip" else 1.0
    chrono = float(max(3, task.steps)) if recipe.chrono else None
    recurrent: RecurrentInit = "identity" if recipe.cell == "rnn" else "orthogonal"
    params = net.init(
        seed=seed, recurrent=recurrent, gain=gain, chrono=chrono, chrono_spread=recipe.spread
    )
    if recipe.front:
        plain = net.init(seed=seed, recurrent=recurrent, gain=gain)
        front = net.layers.index(net.recurrent[0])
        for name in params:
            if name.startswith(f"{front}."):
                params[name][...] = plain[name]
    return params
