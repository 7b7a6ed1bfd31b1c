"""Takes times: contestants take turns; of a row, after everyone's gradients were compared."""

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

# Seconds before each turn: the threads of the contestant before spin for some milliseconds after
# its work, and whoever came next would share the cores with them.
REST = 0.1
REPEATS = 4


def take_turns(
    turns: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    rest: float = REST,
    progress: Callable[[int], None] = lambda repeat: None,
) -> dict[str, float]:
    """Seconds of each contestant's best turn; one after the other, `rest` seconds before each."""
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
    """What a row took, in microseconds per step of all B sequences: each one's best turn.

    peer_errors: |peer - gradcore| / |gradcore| of the gradient that differs most. memory:
    gradcore's, "full" or "default", where it recomputes steps.
    """

    row: Row
    us_per_step: float
    bound_us: float
    peers: dict[str, float]
    peer_errors: dict[str, float]
    memory: str = "full"

    @property
    def fraction(self) -> float:
        """Of the bound: 1 is as fast as the machine allows."""
        return self.bound_us / self.us_per_step

    @property
    def best_peer_ratio(self) -> float | None:
        """Time of the fastest peer / gradcore's; None without peers."""
        return min(self.peers.values()) / self.us_per_step if self.peers else None

    def facts(self) -> dict[str, Any]:
        """As JSON."""
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
    """Checks, then times a row with the machine's threads; peers without its cell are left out.

    rest: seconds before each turn. Raises DisagreementError before anything is timed, ArgumentError
    if the row does not fit into memory.
    """
    problem = Problem.random(row)
    threads = machine.threads
    progress("checking")
    short = problem.first(DIFFERENCE_STEPS)
    check_differences(short, own(short, threads)())
    turns = {"gradcore": own(problem, threads)}
    gradients = turns["gradcore"]()  # also its warm-up
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
