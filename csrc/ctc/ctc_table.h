// The loops of connectionist temporal classification that every instruction-set level fills in.
//
// Probabilities are numbers m * 2^e with m in [1, 2), or 0 with e = no_exponent, so that products
// of 100,000 factors neither underflow nor lose digits. Logarithms would do the former only: of a
// loss of 30,000 a float keeps 3 decimals, and each step would need three exponentials.
#pragma once
#include <cstdint>

namespace gradcore {

constexpr double no_ctc_exponent = -1e15;
// Rows are read this many cells before their first cell and past their last one, which are 0.
constexpr int64_t ctc_pad = 8;

// Numbers of the states of one step, each [cells]: the blanks before, between and behind the
// labels, and the labels.
struct CtcRow {
  double *blank_m, *blank_e, *label_m, *label_e;
};

// What a step multiplies by: the probabilities of the blank and of each label; and whether label i
// may follow label i-1 without a blank between them (1, else 0).
struct CtcStep {
  double blank_m, blank_e;
  const double *label_m, *label_e, *follows;
  int64_t cells;  // a multiple of ctc_pad, at least the number of labels + 1
};

struct CtcKernels {
  // Replaces logits [n] by exp(logits - largest) as numbers m, e; n is a multiple of ctc_pad.
  // -infinity gives 0. Returns their sum.
  double (*exponentials)(double* m, double* e, const double* logits, double largest,
                         int64_t n) noexcept;
  // Forward variables of a step from those of the step before (Graves et al. 2006, eq. 6).
  void (*forward)(const CtcRow& to, const CtcRow& from, const CtcStep& step) noexcept;
  // Backward variables of a step from those of the step after (eq. 10), and the share of each label
  // in the probability p = 1 / inverse_m * 2^p_e of all alignments, given the step's forward
  // variables (eq. 14): `shares` [cells]. Returns that of the blanks.
  double (*backward)(const CtcRow& to, const CtcRow& from, const CtcStep& step,
                     const CtcRow& forward, double inverse_m, double p_e, double* shares) noexcept;
};

// The kernels of the instruction-set level in use.
const CtcKernels& ctc_kernels() noexcept;

}  // namespace gradcore
