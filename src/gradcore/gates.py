"""Statistics of gates along a trajectory: how open, how saturated, how long they remember.

The activations come from the core's own cells, the same code that training runs.
"""

from ._measure.gates import GateStatistics as GateStatistics
from ._measure.gates import statistics as statistics
