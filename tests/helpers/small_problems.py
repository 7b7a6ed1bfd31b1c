"""Problems small enough for autograd over plain loops: two layers, nine steps, all masks."""

import gradcore as gd
from nets import SKIPS, stack
from problem import random_problem

LOSSES = {
    "cross entropy": gd.loss.CrossEntropy(weight=[0.5, 2.0, 0.0, 1.0], ignore_index=-1),
    "last": gd.loss.CrossEntropy(step="last"),
    "binary": gd.loss.BinaryCrossEntropy(),
    "squares": gd.loss.MeanSquaredError(reduction="sum"),
}


def problem_for(cell, skip, *, tokens=False, loss="cross entropy", seed=0, train=None):
    """train: None for no masks and no layers in between; otherwise all of them, in training mode or
    not.
    """
    net = stack(
        cell,
        4 if tokens else 5,
        5,
        layers=2,
        skip=SKIPS[skip],
        residual=True,
        vocabulary=6 if tokens else None,
        classes=4,
        between="nothing" if train is None else "all",
        masks="none" if train is None else "all",
    )
    return random_problem(
        net,
        LOSSES[loss],
        9,
        4,
        seed=seed,
        weight=True,
        lengths=True,
        reset=True,
        state=True,
        train=bool(train),
    )
