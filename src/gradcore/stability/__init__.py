"""Stability in the sense of numerical analysis: of layers as time steps, and of training steps."""

from . import flow as flow
from . import von_neumann as von_neumann
from ._monitor import StabilityMonitor as StabilityMonitor
from ._monitor import by_option as by_option
