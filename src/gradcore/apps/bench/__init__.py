"""How fast gradcore is here: the machine's limits, the bound they set, and others beside it.

The parts, one file each: `machine` measures limits, `bound` turns them into the least time of a
step, `problem` makes the data of a row, `contestants` compute its gradients, `agreement` checks
them, `turns` takes the time, `report` makes tables, JSON and pictures. `gradcore bench` puts them
together.
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
