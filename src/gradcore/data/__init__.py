"""Where batches come from: ragged sequences, one very long stream, or the user's own iterable.

A source knows its place (epoch and position), and the batch at a place depends on nothing but the
source's settings and seed. So a run can be resumed at the batch where it stopped.
"""

from ._batch import Batch as Batch
from ._sequences import Sequences as Sequences
from ._source import Source as Source
from ._stream import Stream as Stream

__all__ = ["Batch", "Sequences", "Source", "Stream"]
