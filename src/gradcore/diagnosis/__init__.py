"""Where the gradient of a net goes, why it dies or explodes, and what would help."""

from ._measure import PARTS as PARTS
from ._measure import diagnose as diagnose
from ._result import Diagnosis as Diagnosis
from ._verdict import Finding as Finding
