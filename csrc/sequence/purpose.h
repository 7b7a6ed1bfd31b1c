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
  bool moved_statics = false;     // static inputs that are added to rows have tangents

  // A product with the Hessian or the Gauss-Newton matrix.
  bool curvature() const { return hessian || gauss_newton; }
  // Tangents that are rescaled on their way, as those of a curvature are not.
  bool scaled_tangents() const { return tangents > 0 && !curvature(); }
};

// Whether a transform does something: dropout acts in training only.
inline bool acts(const Transform& transform, const gc_call& call) {
  return transform.spec.kind != GC_DROPOUT || (call.train && transform.spec.p > 0);
}

}  // namespace gradcore
