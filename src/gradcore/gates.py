"""What the gates of a net do along its trajectory: how open, how saturated, how long they remember.

Activations come from the core's own cells, the code that training runs.
"""

from ._measure.gates import GateStatistics as GateStatistics
from ._measure.gates import statistics as statistics
