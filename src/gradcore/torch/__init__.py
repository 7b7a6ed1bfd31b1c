"""Recurrent layers for PyTorch on gradcore's engine: change one import.

from gradcore.torch import LSTM  # instead of torch.nn.LSTM

A model trains as before, but several times faster on a CPU, within a memory budget, at any length.
Much of gradcore works on such a model: constraints, clipping of gradients beyond the range of
float32, curvature, diagnosis.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "gradcore.torch needs PyTorch: pip install torch. The smaller build for CPUs is on "
        "PyTorch's own index, https://download.pytorch.org/whl/cpu."
    ) from error

from ._clip import clip_grad_norm_ as clip_grad_norm_
from ._clip import log10_grad_norm as log10_grad_norm
from ._constrain import Constrained as Constrained
from ._constrain import constrain as constrain
from ._constrain import params_of as params_of
from ._convert import convert as convert
from ._convert import revert as revert
from ._diagnose import diagnose as diagnose
from ._layer import Layer as Layer
from ._modules import GRU as GRU
from ._modules import LSTM as LSTM
from ._modules import RNN as RNN
from ._modules import AntisymmetricRNN as AntisymmetricRNN
from ._recurrent import Recurrent as Recurrent
from ._stability import StabilityMonitor as StabilityMonitor
from ._stability import StabilityReport as StabilityReport
from ._stability import sharpness as sharpness
