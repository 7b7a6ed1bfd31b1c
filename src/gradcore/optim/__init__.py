"""Optimizers: the core makes each step, clipping included, over the flat buffer of parameters.

Equations and options are those of torch.optim (for Lion, those of its paper). A step that raises
an exception has changed nothing. `constraints` are gradcore.constrain objects, which the parameters
satisfy from the start and after every step. The module also has groups of parameters, accumulation
of gradients and averages of weights.
"""

from ._accumulator import Accumulator as Accumulator
from ._average import Average as Average
from ._groups import Group as Group
from ._groups import no_decay as no_decay
from ._optimizer import GroupReport as GroupReport
from ._optimizer import Optimizer as Optimizer
from ._optimizer import StepReport as StepReport
from ._rules import SGD as SGD
from ._rules import Adagrad as Adagrad
from ._rules import Adam as Adam
from ._rules import AdamW as AdamW
from ._rules import Lion as Lion
from ._rules import RMSprop as RMSprop
