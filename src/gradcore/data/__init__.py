"""Sources of batches: sequences of different lengths, one very long stream, or your own Source.

A source knows its place (epoch and position), and the batch at a place depends only on the
settings and the seed of the source. So a run can be resumed at the batch where it stopped.
"""

from ._batch import Batch as Batch
from ._sequences import Sequences as Sequences
from ._source import Source as Source
from ._stream import Stream as Stream

__all__ = ["Batch", "Sequences", "Source", "Stream"]
