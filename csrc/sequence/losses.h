// The losses of a call: one over all outputs, or several over columns of them.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>
#include <vector>

#include "sequence/network.h"

namespace gradcore {

// Those of gc_call.losses, or the one that the call's own members describe.
std::vector<gc_loss> losses_of(const gc_call& call, int64_t outputs);

// Whether a loss of this kind is a sum of terms that the core computes.
inline bool has_terms(int32_t kind) {
  return kind != GC_LOSS_NONE && kind != GC_LOSS_CALLBACK && kind != GC_LOSS_GIVEN;
}

// Whether its targets are numbers rather than classes.
inline bool targets_are_numbers(int32_t kind) {
  return has_terms(kind) && kind != GC_LOSS_CROSS_ENTROPY;
}

// Whether one of the call's losses has terms.
bool loss_has_terms(const gc_call& call);
// Whether the gradient of one of them is given.
bool loss_is_given(const gc_call& call);

// The outputs that belong to one target: its quantiles, or its mean and its log-variance.
inline int64_t outputs_per_target(const gc_loss& loss) {
  if (loss.kind == GC_LOSS_GAUSSIAN) return 2;
  return loss.kind == GC_LOSS_QUANTILE ? loss.n_quantiles : 1;
}

// The targets of one position.
inline int64_t target_count(const gc_loss& loss) { return loss.outputs / outputs_per_target(loss); }

// Throws Error(GC_INVALID) unless the losses fit the net and their targets are there or promised.
void check_losses(const Network& net, const gc_call& call);
// Throws Error(GC_INVALID) for a target that is no class.
void check_classes(const Network& net, const gc_call& call);

}  // namespace gradcore
