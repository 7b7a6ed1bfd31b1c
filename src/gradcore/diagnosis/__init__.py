"""Diagnosis of a net: where its gradient goes, why it vanishes or explodes, what would help."""

from ._measure import PARTS as PARTS
from ._measure import diagnose as diagnose
from ._result import Diagnosis as Diagnosis
from ._verdict import Finding as Finding
