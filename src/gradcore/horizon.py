"""How far back a gradient reaches: its norm by time step, the share of each window, the bias of
truncated backpropagation.
"""

from ._measure.horizon import Reach as Reach
from ._measure.horizon import TruncationBias as TruncationBias
from ._measure.horizon import WindowShares as WindowShares
from ._measure.horizon import memory_length as memory_length
from ._measure.horizon import reach as reach
from ._measure.horizon import truncation_bias as truncation_bias
from ._measure.horizon import window_shares as window_shares
