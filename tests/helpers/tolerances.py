"""Every tolerance of the numerical tests, with its reason.

Errors are by norm: |got - expected| / |expected| of a whole array, or of all gradients together
where a single array may be small only because of cancellation.
"""

# A complex-step derivative against an analytic one: no difference is taken, so the only errors are
# the roundings of two float64 computations of some thousand operations.
COMPLEX_STEP = 1e-12

# <J v, w> = <v, J^T w> in float64; the two sums occasionally cancel by a factor of ten.
DOT_PRODUCT = 1e-11

# Five-point differences of a float64 loss with a step h = 1e-3 have a rounding error of 1e-16/h and
# a truncation error of h^4, relative to a gradient's norm times a direction's. With kinks (relu)
# the step is 1e-5, within which no unit of these problems crosses a kink.
DIFFERENCES = 1e-9
DIFFERENCES_KINKED = 1e-8

# Two float64 implementations of one formula that add in different orders: some hundred units of
# 1.1e-16, carried through a few hundred steps.
DOUBLE = 5e-14

# The same with saturated gates: sigmoid'(a) and tanh'(a) are small differences in the reference's
# formulas, and relative errors grow by their condition number, |a|, up to 40 here.
DOUBLE_SATURATED = 5e-13

# The core in float32 against float64: 6e-8 per operation, carried through a few hundred steps of
# recurrences that hardly amplify or damp errors.
SINGLE = 5e-6

# The tolerance is multiplied by this where LayerNorms divide rows by their deviation: the division
# amplifies the rounding error of a row whose units differ little, and of a gradient most of which
# the norm removes.
NORM = 20

# The gradient of a mixing skip's logit is computed from h_(t-k) - h_t, a difference smaller than
# its terms by 1 - a = 0.01 (docs/decisions/0003).
DOUBLE_MIX = 1e-13
SINGLE_MIX = 2e-5

# Times what a relu net's reference changes by when its parameters move by as much as rounding does:
# two of its kinks may fall on other sides than in any of the moves that were tried.
KINK = 2

# The tolerance is multiplied by this where layers have one unit: a weight's gradient is then one
# number, a sum over steps that may cancel by a factor of ten, and no norm over many numbers
# averages that.
ONE_UNIT = 10

# The tolerance is multiplied by this where three convolutions stand in front of every layer: as
# many more products round on the way, and with a LSTM of 97 units 6e-6 was seen.
CONVOLUTION = 2

# An antisymmetric net forgets almost nothing, so the roundings of all its steps add up, not only
# those of the last dozens: for 300 steps at most 300 * 6e-8 = 4 * SINGLE in each of two layers.
KEPT = 10

# float64 at T = 10,000 to 100,000, with sums of as many terms.
DOUBLE_LONG = 1e-12

# float32 gradients at T = 10,000 for stable weights, as docs/performance.md states.
SINGLE_LONG = 1e-5

# The direction of a gradient after 16,000 steps of a linear recurrence: every step rounds once, so
# relative errors add up to at most T * 1.1e-16 (T * 6e-8 in float32; they partly cancel).
DOUBLE_SCALED = 5e-12
SINGLE_SCALED = 2e-4

# log10 of a norm whose direction is accurate to SINGLE_SCALED.
LOG10_NORM = 1e-3
