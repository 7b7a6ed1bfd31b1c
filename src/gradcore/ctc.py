"""Labels from the outputs of nets that are trained with loss.CTC."""

from ._engine.ctc import Decoded as Decoded
from ._engine.ctc import decode as decode
