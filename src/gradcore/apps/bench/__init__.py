"""Benchmark: gradcore's time per step, compared with the machine's limits and other libraries.

Each part is one file: `machine` measures the machine's limits, `bound` computes the least time of a
step from them, `problem` makes the data of a row, `contestants` compute its gradients, `agreement`
checks these, `turns` measures times, and `report` makes tables, JSON and pictures. `gradcore bench`
runs them.
"""

from .agreement import DisagreementError as DisagreementError
from .bound import bound_us as bound_us
from .contestants import PEERS as PEERS
from .contestants import installed as installed
from .machine import Machine as Machine
from .machine import measure as measure
from .machine import measure_limits as measure_limits
from .problem import Problem as Problem
from .problem import Row as Row
from .problem import grid as grid
from .turns import Result as Result
from .turns import run as run
