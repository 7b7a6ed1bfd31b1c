#include "sequence/losses.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <string>

#include "base/errors.h"
#include "sequence/presence.h"

namespace gradcore {

std::vector<gc_loss> losses_of(const gc_call& call, int64_t outputs) {
  if (call.loss.kind == GC_LOSS_PARTS) return {call.losses, call.losses + call.n_losses};
  gc_loss loss = call.loss;
  loss.begin = 0;
  loss.outputs = outputs;
  loss.scale = 1;
  return {loss};
}

bool loss_has_terms(const gc_call& call) {
  if (call.loss.kind != GC_LOSS_PARTS) return has_terms(call.loss.kind);
  return std::any_of(call.losses, call.losses + call.n_losses,
                     [](const gc_loss& loss) { return has_terms(loss.kind); });
}

bool loss_is_given(const gc_call& call) {
  if (call.loss.kind != GC_LOSS_PARTS) return call.loss.kind == GC_LOSS_GIVEN;
  return std::any_of(call.losses, call.losses + call.n_losses,
                     [](const gc_loss& loss) { return loss.kind == GC_LOSS_GIVEN; });
}

namespace {

// What a message about the loss begins with.
std::string told(const gc_loss& loss) { return loss.name ? std::string(loss.name) + ": " : ""; }

// The columns of one of several losses. end: the first column behind those of the loss before.
void check_columns(const gc_loss& loss, int64_t end, int64_t outputs) {
  if (!has_terms(loss.kind) && loss.kind != GC_LOSS_GIVEN)
    fail(GC_INVALID, "%sone of several losses must have terms or be given; got loss %d.",
         told(loss).c_str(), loss.kind);
  if (loss.begin < end || loss.outputs < 1 || loss.outputs > outputs - loss.begin)
    fail(GC_INVALID,
         "%sthe losses must be of different outputs, in their order; got the outputs %" PRId64
         " to %" PRId64 " of %" PRId64 ".",
         told(loss).c_str(), loss.begin, loss.begin + loss.outputs - 1, outputs);
  if (!std::isfinite(loss.scale))
    fail(GC_INVALID, "%sthe scale must be finite; got %g.", told(loss).c_str(), loss.scale);
}

void check_options(const gc_loss& loss, bool targets) {
  if (has_terms(loss.kind) && !targets)
    fail(GC_INVALID, "%sthe loss needs targets.", told(loss).c_str());
  if (loss.kind == GC_LOSS_HUBER && !(loss.delta > 0 && std::isfinite(loss.delta)))
    fail(GC_INVALID, "%sdelta must be above 0 and finite; got %g.", told(loss).c_str(), loss.delta);
  if (loss.kind == GC_LOSS_QUANTILE) {
    if (loss.n_quantiles < 1 || !loss.quantiles)
      fail(GC_INVALID, "%sthe loss needs quantiles, one or more.", told(loss).c_str());
    for (int64_t q = 0; q < loss.n_quantiles; q++)
      if (!(loss.quantiles[q] > 0 && loss.quantiles[q] < 1))
        fail(GC_INVALID, "%squantiles must lie between 0 and 1; got %g.", told(loss).c_str(),
             loss.quantiles[q]);
  }
  if (loss.outputs % outputs_per_target(loss) != 0)
    fail(GC_INVALID,
         "%sthe loss needs %" PRId64 " outputs for each target; the net has %" PRId64 " outputs.",
         told(loss).c_str(), outputs_per_target(loss), loss.outputs);
}

void check_classes(const gc_loss& loss, const gc_call& call) {
  const int64_t B = call.batch;
  const auto* target = static_cast<const int64_t*>(loss.target);
  for (int64_t r = 0; r < (loss.last ? B : call.steps * B); r++) {
    const int64_t b = r % B, t = r / B;
    if (call.lengths && (loss.last ? call.lengths[b] == 0 : t >= call.lengths[b])) continue;
    if (target[r] != loss.ignore_index && (target[r] < 0 || target[r] >= loss.outputs))
      fail(GC_INVALID,
           "%stargets must be classes in 0..%" PRId64 " or ignore_index = %" PRId64
           "; sequence %" PRId64 ", step %" PRId64 " has %" PRId64 ".",
           told(loss).c_str(), loss.outputs - 1, loss.ignore_index, b,
           loss.last ? call.steps - 1 : t, target[r]);
  }
}

}  // namespace

void check_losses(const Network& net, const gc_call& call) {
  if (call.loss.kind < GC_LOSS_NONE || call.loss.kind > GC_LOSS_PARTS)
    fail(GC_INVALID, "unknown loss %d.", call.loss.kind);
  if (call.loss.kind == GC_LOSS_CALLBACK && !call.loss_fn)
    fail(GC_INVALID, "the loss callback is missing.");
  const bool several = call.loss.kind == GC_LOSS_PARTS;
  if (several && (call.n_losses < 1 || !call.losses))
    fail(GC_INVALID, "GC_LOSS_PARTS needs losses, one or more.");
  const bool promised = has(call, GC_ARRAY_TARGET);
  int64_t end = 0;
  for (const gc_loss& loss : losses_of(call, net.outputs)) {
    if (several) check_columns(loss, end, net.outputs);
    check_options(loss, promised || loss.target);
    end = loss.begin + loss.outputs;
  }
}

void check_classes(const Network& net, const gc_call& call) {
  for (const gc_loss& loss : losses_of(call, net.outputs))
    if (loss.kind == GC_LOSS_CROSS_ENTROPY) check_classes(loss, call);
}

}  // namespace gradcore
