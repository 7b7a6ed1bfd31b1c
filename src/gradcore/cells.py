"""Cells of your own: one function in C++ or Python becomes a layer with exact derivatives."""

from ._net.compiled import CompiledCell as CompiledCell
from ._net.compiled import compile as compile
from ._net.traced import exp as exp
from ._net.traced import log as log
from ._net.traced import maximum as maximum
from ._net.traced import minimum as minimum
from ._net.traced import relu as relu
from ._net.traced import sigmoid as sigmoid
from ._net.traced import softplus as softplus
from ._net.traced import sqrt as sqrt
from ._net.traced import tanh as tanh
from ._net.traced import where as where
