"""The problems of tests/golden, and the form of a problem and its solution in a file."""

import gradcore as gd
from nets import stack
from problem import Problem, Solution, named, random_problem
from reference import pipeline

MASKS = {"lengths": True, "reset": True, "state": True}
CASES = {
    "rnn": {
        "net": {"cell": "rnn", "inputs": 3, "hidden": 7, "layers": 2},
        "loss": {"kind": "MeanSquaredError"},
        "data": {"steps": 20, "batch": 2, "seed": 1, "state": True},
    },
    "relu": {
        "net": {"cell": "relu", "inputs": 3, "hidden": 9, "classes": 4},
        "loss": {"kind": "CrossEntropy", "step": "last"},
        "data": {"steps": 11, "batch": 3, "seed": 2, **MASKS},
    },
    "identity": {
        "net": {"cell": "identity", "inputs": 5, "hidden": 5, "residual": True, "classes": 2},
        "loss": {"kind": "BinaryCrossEntropy", "reduction": "sum"},
        "data": {"steps": 15, "batch": 3, "seed": 3, "weight": True, **MASKS},
    },
    "lstm": {
        "net": {"cell": "lstm", "inputs": 4, "hidden": 8, "vocabulary": 6, "classes": 5},
        "loss": {"kind": "CrossEntropy", "ignore_index": 2, "weight": [0.5, 1.0, 1.0, 2.0, 0.0]},
        "data": {"steps": 133, "batch": 3, "seed": 4, "weight": True, **MASKS},
    },
    "lstm-skip": {
        "net": {"cell": "lstm", "inputs": 5, "hidden": 5, "layers": 2, "residual": True},
        "skip": {"lag": 3, "kind": "add", "value": 0.5, "learned": True},
        "loss": {"kind": "MeanSquaredError", "step": "last"},
        "data": {"steps": 20, "batch": 3, "seed": 5, **MASKS},
    },
    "gru": {
        "net": {"cell": "gru", "inputs": 6, "hidden": 7, "layers": 2, "classes": 3},
        "loss": {"kind": "CrossEntropy"},
        "data": {"steps": 20, "batch": 4, "seed": 6, "tokens": True, **MASKS},
    },
    "gru-skip": {
        "net": {"cell": "gru", "inputs": 3, "hidden": 9, "bias": False, "classes": 3},
        "skip": {"lag": 2, "kind": "mix", "learned": True},
        "loss": {"kind": "CrossEntropy", "reduction": "sum"},
        "data": {"steps": 20, "batch": 2, "seed": 7, **MASKS},
    },
}


def problem_of(case):
    """The problem of a case, made from its seed."""
    data = dict(case["data"])
    return random_problem(*described(case), data.pop("steps"), data.pop("batch"), **data)


def described(case):
    """The net and the loss of a case, as JSON."""
    skip = gd.Skip(**case["skip"]) if "skip" in case else None
    loss = dict(case["loss"])
    return stack(**case["net"], skip=skip), getattr(gd.loss, loss.pop("kind"))(**loss)


def arrays_of(problem, solution):
    """Problem and solution as arrays by name; arrays that are None are left out."""
    state = {} if problem.state is None else named(problem.state)
    groups = {
        "params": problem.params,
        "start": state,
        "grad": solution.params,
        "dstate": solution.dstate,
        "state": solution.state,
    }
    single = {name: getattr(problem, name) for name in ("x", "y", "weight", "lengths", "reset")} | {
        "loss": solution.loss,
        "dx": solution.x,
        "outputs": solution.outputs,
    }
    grouped = {f"{group}/{n}": a for group, arrays in groups.items() for n, a in arrays.items()}
    return {name: a for name, a in (grouped | single).items() if a is not None}


def read(case, arrays):
    """Reads the problem and the solution that arrays_of wrote."""

    def group(prefix):
        return {n.split("/")[1]: a for n, a in arrays.items() if n.startswith(f"{prefix}/")}

    net, loss = described(case)
    start = group("start")
    state = [
        pipeline.State(start[f"{i}.past"], start.get(f"{i}.c"))
        for i in range(len(pipeline.recurrent(net)) if start else 0)
    ]
    problem = Problem(
        net,
        group("params"),
        arrays["x"],
        arrays["y"],
        loss,
        weight=arrays.get("weight"),
        lengths=arrays.get("lengths"),
        reset=arrays.get("reset"),
        state=state or None,
    )
    solution = Solution(
        float(arrays["loss"]),
        group("grad"),
        arrays.get("dx"),
        group("dstate"),
        group("state"),
        arrays["outputs"],
    )
    return problem, solution
