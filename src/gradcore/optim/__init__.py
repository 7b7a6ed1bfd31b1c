"""Optimizers: each step is one pass of the core over the flat buffer, clipping included.

Equations and options as torch.optim (Lion: its paper). A step that raises has changed nothing.
`constraints` are gradcore.constrain objects, met from the start and after every step. Beside them:
groups of parameters, accumulation of gradients, averages of weights.
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
