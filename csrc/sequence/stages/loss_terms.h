// Losses whose targets are numbers: the terms of one row of outputs, their gradient and their
// curvature. All is computed in double precision.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

#include "kernels/kernel_table.h"
#include "sequence/losses.h"

namespace gradcore {

// What one position adds to the divisor of a mean, if it has weight 1 and `targets` targets.
int64_t terms_of(const gc_loss& loss, int64_t targets);
// Whether curvature_of() needs the outputs, not only the gradient.
bool curvature_needs_outputs(const gc_loss& loss);

// y [targets] -> how many of them count.
template <class T>
int64_t count_targets(const gc_loss& loss, const T* y, int64_t targets);

// A row of outputs and its targets.
template <class T>
struct Targets {
  const T* y;          // [count]
  const double* each;  // [count] what the terms are multiplied by; null: 1
  int64_t count;
  double weight;  // of the row

  double weight_of(int64_t i) const { return each ? weight * each[i] : weight; }
};

// Replaces the outputs z [outputs_per_target * targets] by the gradient of their weighted term
// times `factor` and returns the weighted term, which for GC_LOSS_GAUSSIAN is not finite if the
// gradient is not: exp(-s) may overflow there for an ordinary output s.
template <class T>
double term_of(const gc_loss& loss, const Kernels<T>& kernels, T* z, const Targets<T>& targets,
               double factor);

// A row that has gone through term_of().
template <class T>
struct Row {
  const T* z;      // [outputs] as they were; null unless curvature_needs_outputs()
  const T* slope;  // [outputs] the gradient
  Targets<T> targets;
  double factor;
  bool gauss_newton;  // the matrix is to be positive semidefinite
};

// Replaces `moved` [outputs] by the matrix H times itself. H is the Hessian of the term that
// term_of() made, by the outputs; for GC_LOSS_GAUSSIAN and a Gauss-Newton product it is the
// expectation of that for targets which have the distribution predicted, diag(exp(-s), 1/2) for the
// mean and the log-variance s: Fisher's matrix (Martens 2020). The Hessian itself is
// indefinite.
template <class T>
void curvature_of(const gc_loss& loss, const Row<T>& row, T* moved);

}  // namespace gradcore
