// What a call asks of one part of a net.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

#include "sequence/network.h"

namespace gradcore {

struct Purpose {
  bool trains = false;                 // the plan has BACKWARD
  bool tape = false;                   // it has TAPE
  bool emits = false;                  // it has EMIT
  bool cotangents = false;             // it has COTANGENT
  int64_t first_backward = INT64_MAX;  // index of the first BACKWARD operation
  int64_t tangents = 0;                // how many are carried along
  bool hessian = false, gauss_newton = false;
  bool puts_out = false;          // computes outputs of the net, or the loss
  bool reads_table = false;       // tokens choose columns of weight_ih: there is no embedding
  bool looks_up_taps = false;     // tokens choose rows of a convolution's tables
  bool moved_parameters = false;  // the parameters have tangents

  // A product with the Hessian or the Gauss-Newton matrix.
  bool curvature() const { return hessian || gauss_newton; }
  // Tangents that are rescaled on their way, as those of a curvature are not.
  bool scaled_tangents() const { return tangents > 0 && !curvature(); }
};

// Whether the loss is a sum of terms that the core computes.
inline bool loss_has_terms(const gc_call& call) {
  return call.loss != GC_LOSS_NONE && call.loss != GC_LOSS_CALLBACK && call.loss != GC_LOSS_GIVEN;
}

// Whether its targets are numbers rather than classes.
inline bool targets_are_numbers(const gc_call& call) {
  return loss_has_terms(call) && call.loss != GC_LOSS_CROSS_ENTROPY;
}

// The outputs that belong to one target: its quantiles, or its mean and its log-variance.
inline int64_t outputs_per_target(const gc_call& call) {
  if (call.loss == GC_LOSS_GAUSSIAN) return 2;
  return call.loss == GC_LOSS_QUANTILE ? call.n_quantiles : 1;
}

// Whether a transform does something: dropout acts in training only.
inline bool acts(const Transform& transform, const gc_call& call) {
  return transform.spec.kind != GC_DROPOUT || (call.train && transform.spec.p > 0);
}

}  // namespace gradcore
