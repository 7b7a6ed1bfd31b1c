"""Every tolerance of the numerical tests, with its reason.

Errors are norm-wise: |got - expected| / |expected| of a whole array, or of all gradients together
where a single array may be small only because of cancellation.
"""

# Complex-step derivative against an analytic one: no difference is taken, so only the roundings of
# two double computations of some thousand operations are left.
COMPLEX_STEP = 1e-12

# <J v, w> = <v, J^T w> in doubles; the two sums cancel by a factor of ten now and then.
DOT_PRODUCT = 1e-11

# Five-point differences of a double loss with a step of 1e-3: rounding 1e-16/h, truncation h^4, of
# a gradient's norm times a direction's. With kinks (relu) the step is 1e-5, which no unit of these
# problems crosses one in.
DIFFERENCES = 1e-9
DIFFERENCES_KINKED = 1e-8

# Two double implementations of one formula that sum in other orders: some hundred units of
# 1.1e-16, carried through a few hundred steps.
DOUBLE = 5e-14

# The same with saturated gates: sigmoid'(a) and tanh'(a) are small differences in the reference's
# formulas and relative errors grow by their condition, |a| up to 40 here.
DOUBLE_SATURATED = 5e-13

# The core in float32 against doubles: 6e-8 per operation, carried through a few hundred steps of
# recurrences that neither grow nor shrink errors much.
SINGLE = 5e-6

# Times this where LayerNorms divide rows by their spread: what rounding did to a row whose units
# differ little, or to a gradient that is mostly along what a norm takes out, grows by as much.
NORM = 20

# The gradient of a mixing skip's logit takes h_(t-k) - h_t, a difference smaller than its terms by
# 1 - a = 0.01 (docs/decisions/0003).
DOUBLE_MIX = 1e-13
SINGLE_MIX = 2e-5

# Times what a relu net's reference changes by when its parameters move by as much as rounding does:
# two of its kinks may fall on other sides than in any of the moves that were tried.
KINK = 2

# Times this where layers have one unit: a weight's gradient is one number then, a sum over steps
# that may cancel by ten, and no norm of many averages that out.
ONE_UNIT = 10

# An antisymmetric net forgets next to nothing, so that the roundings of all its steps add up, not
# those of the last dozens: of 300 steps at most 300 * 6e-8 = 4 * SINGLE in each of two layers.
KEPT = 10

# Doubles at T = 10,000 to 100,000: sums of as many terms.
DOUBLE_LONG = 1e-12

# float32 gradients at T = 10,000 for stable weights: the promise of docs/performance.md.
SINGLE_LONG = 1e-5

# Direction of a gradient after 16,000 steps of a linear recurrence: every step rounds once, so
# relative errors add up to at most T * 1.1e-16 (T * 6e-8 in float32; they partly cancel).
DOUBLE_SCALED = 5e-12
SINGLE_SCALED = 2e-4

# log10 of a norm whose direction is right to SINGLE_SCALED.
LOG10_NORM = 1e-3
