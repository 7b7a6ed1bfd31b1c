"""The cases in which gradcore and the reference must agree: their factors, and the problems made of
them.
"""

import gradcore as gd
import nets
from gradcore import _core
from problem import random_problem

BLOCK = _core.block_steps()

SKIPS = nets.SKIPS | {
    "lag 7": gd.Skip(7, kind="mix", value=0.2),
    "longer than a block": gd.Skip(BLOCK + 2, kind="add", value=0.5, learned=True),
    "longer than T": gd.Skip(311, kind="mix", value=0.6),
}
LOSSES = {
    "cross entropy": gd.loss.CrossEntropy(),
    "cross entropy, sum, last": gd.loss.CrossEntropy(reduction="sum", step="last"),
    "binary": gd.loss.BinaryCrossEntropy(),
    "binary, sum, last": gd.loss.BinaryCrossEntropy(reduction="sum", step="last"),
    "squares, last": gd.loss.MeanSquaredError(step="last"),
    "squares, sum": gd.loss.MeanSquaredError(reduction="sum"),
}
SIZES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 97]

FACTORS = {
    "cell": list(nets.CELLS),
    "hidden": SIZES,
    "inputs": [1, 3, 8, 17, 33],
    "batch": [1, 2, 3, 5, 9],
    "steps": [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 44],
    "layers": [1, 2, 3],
    "skip": list(SKIPS),
    "residual": [False, True],
    "bidirectional": [(), (0,), (1,), (0, 1, 2)],
    "bias": [True, False],
    "source": ["floats", "tokens", "embedding"],
    "classes": [None, 1, 5, 17],
    "between": list(nets.BETWEEN),
    "masks": list(nets.MASKS),
    "train": [False, True],
    "loss": list(LOSSES),
    "weight": [False, True],
    "lengths": [False, True],
    "reset": [False, True],
    "state": [False, True],
    "dtype": ["float32", "float64"],
    "isa": _core.isa_available(),
    "threads": [1, 2, 3],
    "memory": ["full", "smallest"],
}


def problem_of(case, seed):
    given = {name: case[name] for name in ("weight", "lengths", "reset", "state", "train")}
    return random_problem(
        nets.net_of(case, SKIPS),
        LOSSES[case["loss"]],
        case["steps"],
        case["batch"],
        seed=seed,
        tokens=case["source"] == "tokens",
        **given,
    )
