"""Von Neumann analysis: the factor by which a layer multiplies each Fourier mode.

A linear layer that does the same at every point of a periodic grid turns the mode exp(i k.n) into
G(k) exp(i k.n). G(k) is its amplification factor, a matrix if there are several channels. Over T
layers or steps the mode is multiplied by G(k)^T, so |G(k)| decides which modes grow.
Reference: Charney, Fjortoft, von Neumann 1950; LeVeque 2007, section 9.6.
"""

from ._symbols import METHODS as METHODS
from ._symbols import Boundary as Boundary
from ._symbols import Linearisation as Linearisation
from ._symbols import ModeGrowth as ModeGrowth
from ._symbols import StepLimit as StepLimit
from ._symbols import Symbol as Symbol
from ._symbols import boundary as boundary
from ._symbols import circulant as circulant
from ._symbols import convolution as convolution
from ._symbols import linearise as linearise
from ._symbols import power as power
from ._symbols import project as project
from ._symbols import recurrent as recurrent
from ._symbols import residual as residual
from ._symbols import stable_step as stable_step
