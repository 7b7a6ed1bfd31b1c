"""Exact gradients through very long recurrences: train, diagnose and cure them on a CPU.

import gradcore as gd

net = gd.Stack(gd.Embedding(128, 16), gd.LSTM(16, 128), gd.Linear(128, 5))
params = net.init(seed=0)
optimizer = gd.optim.Adam(params, lr=2e-3, clip=gd.clip.GlobalNorm(1.0))
result = gd.value_and_grad(net, params, x, y, loss="cross_entropy", memory="256MB")
optimizer.step(result.grads)
"""

from . import amplification as amplification
from . import clip as clip
from . import constrain as constrain
from . import data as data
from . import diagnosis as diagnosis
from . import errors as errors
from . import gates as gates
from . import horizon as horizon
from . import implicit as implicit
from . import info as info
from . import init as init
from . import jacobian as jacobian
from . import loss as loss
from . import lyapunov as lyapunov
from . import optim as optim
from . import schedule as schedule
from . import spectral as spectral
from . import stability as stability
from ._embed import get_cmake_dir as get_cmake_dir
from ._embed import get_include as get_include
from ._embed import get_library_dir as get_library_dir
from ._embed import get_link_args as get_link_args
from ._embed import get_pkgconfig_dir as get_pkgconfig_dir
from .api import GradientResult as GradientResult
from .api import apply as apply
from .api import release_memory as release_memory
from .api import value as value
from .api import value_and_grad as value_and_grad
from .bptt import Plan as Plan
from .bptt import plan as plan
from .cells import GRU as GRU
from .cells import LSTM as LSTM
from .cells import RNN as RNN
from .cells import AntisymmetricRNN as AntisymmetricRNN
from .data import Batch as Batch
from .diagnosis import diagnose as diagnose
from .errors import ArgumentError as ArgumentError
from .errors import CheckpointError as CheckpointError
from .errors import ConditioningWarning as ConditioningWarning
from .errors import ConvergenceWarning as ConvergenceWarning
from .errors import DTypeError as DTypeError
from .errors import GradcoreError as GradcoreError
from .errors import InternalError as InternalError
from .errors import MemoryBudgetError as MemoryBudgetError
from .errors import NonFiniteError as NonFiniteError
from .errors import OutOfMemoryError as OutOfMemoryError
from .errors import ShapeError as ShapeError
from .info import BuildInfo as BuildInfo
from .info import build_info as build_info
from .io import Checkpoint as Checkpoint
from .io import load as load
from .io import save as save
from .layers import Dropout as Dropout
from .layers import Embedding as Embedding
from .layers import LayerNorm as LayerNorm
from .layers import Linear as Linear
from .layers import Skip as Skip
from .layers import Stack as Stack
from .params import Grads as Grads
from .params import Params as Params
from .passes import Pass as Pass
from .passes import PassGradient as PassGradient
from .passes import forward as forward
from .state import LayerState as LayerState
from .state import zero_state as zero_state
from .stepper import Stepper as Stepper
from .trainer import FitReport as FitReport
from .trainer import Trainer as Trainer

__version__ = info.VERSION
