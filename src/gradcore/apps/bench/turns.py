"""Measures the times of a row: contestants take turns, after their gradients were compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .agreement import DIFFERENCE_STEPS, check_differences, check_same
from .bound import bound_us
from .contestants import Contestant, Peer, gradcore, memory_for
from .machine import Machine
from .problem import INPUTS, Problem, Row

__all__ = ["Result", "run", "take_turns"]

# Seconds of rest before each turn: the threads of the previous contestant keep spinning for some
# milliseconds after its work, and would share the cores with the next one.
REST = 0.1
REPEATS = 4


def take_turns(
    turns: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    rest: float = REST,
    progress: Callable[[int], None] = lambda repeat: None,
) -> dict[str, float]:
    """The seconds of each contestant's best turn, with `rest` seconds before each turn."""
    best = dict.fromkeys(turns, math.inf)
    for repeat in range(repeats):
        progress(repeat)
        for name, turn in turns.items():
            time.sleep(rest)
            begin = time.perf_counter()
            turn()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


@dataclass(frozen=True)
class Result:
    """The times of a row in microseconds per step of all B sequences, from each best turn.

    peer_errors: |peer - gradcore| / |gradcore| of the gradient that differs most. memory: the
    budget of gradcore, "full", or "default" with which it may recompute steps.
    """

    row: Row
    us_per_step: float
    bound_us: float
    peers: dict[str, float]
    peer_errors: dict[str, float]
    memory: str = "full"

    @property
    def fraction(self) -> float:
        """The bound divided by gradcore's time: 1 is as fast as the machine allows."""
        return self.bound_us / self.us_per_step

    @property
    def best_peer_ratio(self) -> float | None:
        """The time of the fastest peer divided by gradcore's; None without peers."""
        return min(self.peers.values()) / self.us_per_step if self.peers else None

    def facts(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "cell": self.row.cell,
            "H": self.row.hidden,
            "B": self.row.batch,
            "T": self.row.steps,
            "us_per_step": self.us_per_step,
            "bound_us": self.bound_us,
            "fraction": self.fraction,
            "peers": self.peers,
            "best_peer_ratio": self.best_peer_ratio,
            "peer_errors": self.peer_errors,
            "memory": self.memory,
        }


def run(
    row: Row,
    machine: Machine,
    peers: Mapping[str, Peer],
    *,
    repeats: int = REPEATS,
    rest: float = REST,
    own: Contestant = gradcore,
    progress: Callable[[str], None] = lambda line: None,
) -> Result:
    """Checks the gradients of a row and then measures it with the machine's threads.

    Peers that do not have its cell are left out. rest: seconds before each turn. Raises
    DisagreementError before anything is timed, and ArgumentError if the row does not fit into
    memory.
    """
    problem = Problem.random(row)
    threads = machine.threads
    progress("checking")
    short = problem.first(DIFFERENCE_STEPS)
    check_differences(short, own(short, threads)())
    turns = {"gradcore": own(problem, threads)}
    gradients = turns["gradcore"]()  # this is gradcore's warm-up as well
    errors = {}
    for name, peer in peers.items():
        if peer.has(row):
            progress(f"checking {peer.title}")
            turns[name] = peer.make(problem, threads)
            errors[name] = check_same(problem, name, turns[name](), gradients)
    best = take_turns(
        turns, repeats, rest, lambda repeat: progress(f"turn {repeat + 1} of {repeats}")
    )
    per_step = {name: seconds / row.steps * 1e6 for name, seconds in best.items()}
    bound = bound_us(machine, gates=row.gates, inputs=INPUTS, hidden=row.hidden, batch=row.batch)
    memory = memory_for(row, threads) or "default"
    return Result(row, per_step.pop("gradcore"), bound, per_step, errors, memory)
