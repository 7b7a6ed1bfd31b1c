"""Measurements that test_resident_set.py runs in their own processes, where nothing else affects
them.

Prints numbers as JSON. The bytes of the resident set are read from /proc.
"""

from __future__ import annotations

import json
import resource
import sys

import numpy as np

import gradcore as gd


def resident(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(which))


def reset_peak():
    """Resets VmHWM, the largest resident set so far."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


LEARNED = gd.Skip(300, kind="mix", learned=True)
NETS = {
    "lstm": gd.Stack(gd.Embedding(9, 8), gd.LSTM(8, 64), gd.Linear(64, 5)),
    "both ways": gd.Stack(
        gd.Embedding(9, 8), gd.GRU(8, 24, bidirectional=True), gd.LSTM(48, 16), gd.Linear(16, 5)
    ),
    "masks": gd.Stack(
        gd.Embedding(9, 8),
        gd.LayerNorm(8),
        gd.LSTM(8, 40, zoneout=0.1, recurrent_dropout=0.1),
        gd.Dropout(0.3),
        gd.GRU(40, 33),
        gd.LayerNorm(33),
        gd.Linear(33, 5),
    ),
    "skip": gd.Stack(gd.GRU(2, 32, skip=LEARNED), gd.Linear(32, 3)),
    "function": gd.Stack(gd.RNN(2, 48), gd.Linear(48, 16)),
    "stack": gd.Stack(gd.LSTM(2, 128), gd.LSTM(128, 128, residual=True), gd.Linear(128, 3)),
}
BATCH = 4


class Problem:
    """A net with its arguments for up to the given number of steps; all arrays of the caller
    exist.
    """

    def __init__(self, name, steps):
        self.net = NETS[name]
        self.params = self.net.init(seed=0)
        self.loss = "cross_entropy" if self.net.embedding else "mse"
        self.wrt = ("params",)
        if self.net.embedding:
            self.x = np.ones((steps, BATCH), np.int32)
            self.y = np.ones((steps, BATCH), np.int64)
        else:
            self.wrt = ("params", "x")
            self.x = np.ones((steps, BATCH, 2), np.float32)
            self.y = np.ones((steps, BATCH, self.net.output_size), np.float32)
        if name == "function":
            self.gradient = np.ones_like(self.y)
            self.y, self.loss = None, self.function
        self.random = {"seed": 1} if self.net.is_random else {}
        self.out = gd.Grads(self.net, np.ones_like(self.params.flat))

    def function(self, outputs, t0, t1):
        return 0.0, self.gradient[t0:t1]

    def gradients(self, steps, memory):
        return gd.value_and_grad(
            self.net,
            self.params,
            self.x[:steps],
            None if self.y is None else self.y[:steps],
            loss=self.loss,
            wrt=self.wrt,
            memory=memory,
            out=self.out,
            **self.random,
        )

    def smallest(self, steps):
        try:
            self.gradients(steps, 1)
        except gd.MemoryBudgetError as error:
            return error.smallest
        raise AssertionError("a byte is enough")


def growth(name, steps, memory):
    """Growth of the resident set by one call, and the predicted growth."""
    steps = int(steps)
    problem = Problem(name, steps)
    smallest = problem.smallest(steps)
    budget = {"least": smallest, "full": "full"}.get(memory) or int(memory)
    problem.gradients(200, None)
    gd.release_memory()
    reset_peak()
    before = resident("VmRSS")
    result = problem.gradients(steps, budget)
    grown = resident("VmHWM") - before
    returned = [result.dx, result.dx_exponent]
    returned = sum(array.nbytes for array in returned if array is not None)
    return {
        "grown": grown - returned,
        "predicted": result.plan.bytes,
        "levels": result.plan.levels,
        "smallest": smallest,
    }


def steady(name, memory, *lengths):
    """Page faults per call and update, in several rounds over the same lengths."""
    lengths = [int(length) for length in lengths]
    problem = Problem(name, max(lengths))
    problem.wrt = ("params",)
    optimizer = gd.optim.Adam(problem.params, lr=1e-3, clip=gd.clip.GlobalNorm(1.0))
    rounds = []
    for _ in range(5):
        counts = []
        for length in lengths:
            before = faults()
            optimizer.step(problem.gradients(length, memory).grads)
            counts.append(faults() - before)
        rounds.append(counts)
    return {"rounds": rounds}


def training(hidden, accumulate):
    """Page faults per update of a Trainer."""
    net = gd.Stack(gd.LSTM(4, int(hidden)), gd.Linear(int(hidden), 1))
    params = net.init(seed=0)
    seen = []

    class Counting(gd.optim.Adam):
        def step(self, *arguments, **options):
            report = super().step(*arguments, **options)
            seen.append(faults())
            return report

    x = np.random.default_rng(0).standard_normal((40 * 64, 4), np.float32)
    source = gd.data.Stream(x, x[:, :1], batch_size=4, k1=64)
    optimizer = Counting(params, lr=1e-3)
    trainer = gd.Trainer(net, params, optimizer, loss="mse", quiet=True, accumulate=int(accumulate))
    trainer.fit(source, steps=8)
    return {"bytes": params.flat.nbytes, "faults": np.diff(seen).tolist()}


def stream(folder, kind, steps):
    """Growth of the resident set by one pass of truncated BPTT over a memory map."""
    steps = int(steps)
    if kind == "tokens":
        x = np.memmap(f"{folder}/x", np.uint8, "r", shape=(steps,))
        y, loss = x, "cross_entropy"
        net = gd.Stack(gd.Embedding(4, 2), gd.RNN(2, 4), gd.Linear(4, 4))
    else:
        x = np.memmap(f"{folder}/x", np.float32, "r", shape=(steps, 4))
        y, loss = x[:, :1], "mse"
        net = gd.Stack(gd.RNN(4, 4), gd.Linear(4, 1))
    params = net.init(seed=0)
    optimizer = gd.optim.SGD(params, lr=1e-2)
    trainer = gd.Trainer(net, params, optimizer, loss=loss, quiet=True, threads=1)

    def source(end):
        return gd.data.Stream(x[:end], y[:end], batch_size=16, k1=512)

    trainer.fit(source(100_000))
    reset_peak()
    before = resident("VmRSS")
    report = trainer.fit(source(steps), run=f"{folder}/run")
    return {
        "grown": resident("VmHWM") - before,
        "file": x.nbytes,
        "updates": report.steps,
        "losses": report.losses[-1],
    }


if __name__ == "__main__":
    jobs = {job.__name__: job for job in (growth, steady, training, stream)}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))
