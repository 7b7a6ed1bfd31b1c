"""By how much each single step of a net can stretch a perturbation, along its trajectory."""

from ._measure.amplification import Amplification as Amplification
from ._measure.amplification import along as along
