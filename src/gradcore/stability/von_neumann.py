"""Von Neumann analysis: what a layer multiplies each Fourier mode by.

A layer that does the same at every place of a periodic grid turns exp(i k.n) into G(k) exp(i k.n):
G is its amplification factor, a matrix where there are several channels. A mode of factor G(k) is
multiplied by G(k)^T over T layers or steps, so |G(k)| decides which modes grow.
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
