// What a call must satisfy before anything runs.
#include <cinttypes>

#include "base/errors.h"
#include "sequence/job.h"

namespace gradcore {

template <class T>
Job<T>::Job(const Part& part, gc_call& call, const Link<T>& link, Progress& progress)
    : part_(part),
      net_(part.net),
      call_(call),
      link_(link),
      progress_(progress),
      k_(kernels<T>()),
      T_(call.steps),
      B_(call.batch),
      L_(static_cast<int64_t>(part.net.layers.size())) {
  if (T_ < 1 || B_ < 1)
    fail(GC_INVALID, "steps and batch must be at least 1; got %" PRId64 " and %" PRId64 ".", T_,
         B_);
  if (T_ > INT32_MAX / 4 || B_ > INT32_MAX / 4)
    fail(GC_INVALID, "steps and batch must be below 2^29; got %" PRId64 " and %" PRId64 ".", T_,
         B_);
  if (L_ > static_cast<int64_t>(sizeof by_units_))
    fail(GC_INVALID, "a net may have at most %zu recurrent layers; got %" PRId64 ".",
         sizeof by_units_, L_);
  K_ = call_.tangents;
  hessian_ = K_ && call_.curvature == GC_CURVATURE_HESSIAN;
  gauss_newton_ = K_ && call_.curvature == GC_CURVATURE_GAUSS_NEWTON;
  check_plan();
  check_presence();
  check_tangents();
  check_sizes();
  choose_transforms();
  wants_input_gradient_ = (trains_ && (call_.dx || net_.embedding_rows || trains_transforms(0))) ||
                          (directs_ && call_.direction_x);
  direct_input_ =
      !call_.tokens && !call_.lengths && !part_.reverse && net_.layers[0].I == net_.layers[0].Ip;
  choose_team();
  // Chunks: the widest rows of a chunk in 256 KB, a power of two of steps between one look and one
  // block.
  int64_t row = 1;
  for (const Layer& l : net_.layers) {
    const int64_t widest = l.pass ? 1 : l.planes > l.gates ? l.planes : l.gates;
    row = row > B_ * l.Hp * widest ? row : B_ * l.Hp * widest;
  }
  chunk_ = block_steps;
  if (K_ && !hessian_ && !gauss_newton_) chunk_ = look_steps;  // one exponent for a chunk
  while (chunk_ > look_steps && chunk_ * row * static_cast<int64_t>(sizeof(T)) > 256 * 1024)
    chunk_ /= 2;
  rows_ = chunk_ * B_;
}

template <class T>
void Job<T>::check_plan() {
  if (call_.n_ops < 1 || !call_.ops) fail(GC_INVALID, "a plan needs at least one operation.");
  segment_ = call_.segment_steps < T_ ? call_.segment_steps : T_;
  const gc_op* before = nullptr;
  for (int64_t i = 0; i < call_.n_ops; i++) {
    const gc_op& op = call_.ops[i];
    if (op.t0 < 0 || op.t1 <= op.t0 || op.t1 > T_ || op.t0 % block_steps ||
        op.t1 - op.t0 > segment_ || (op.t1 % block_steps && op.t1 != T_))
      fail(GC_INVALID,
           "operation %" PRId64 ": a range must begin at a multiple of %" PRId64
           ", end at one or at %" PRId64 ", and be at most segment_steps = %" PRId64
           " long; got [%" PRId64 ", %" PRId64 ").",
           i, block_steps, T_, segment_, op.t0, op.t1);
    if (op.kind < GC_OP_FORWARD || op.kind > GC_OP_COTANGENT)
      fail(GC_INVALID, "operation %" PRId64 ": unknown kind %d.", i, op.kind);
    if (op.kind == GC_OP_BACKWARD || op.kind == GC_OP_COTANGENT) {
      if (!before || before->kind != GC_OP_TAPE || before->t0 != op.t0 || before->t1 != op.t1)
        fail(GC_INVALID,
             "operation %" PRId64
             ": BACKWARD and COTANGENT must follow the TAPE of the same range.",
             i);
      if (op.kind == GC_OP_COTANGENT) {
        directs_ = true;
      } else {
        if (!trains_) first_backward_ = i;
        trains_ = true;
      }
    } else {
      const bool previous = op.from_slot == GC_FROM_PREVIOUS;
      if (previous && (!before || before->kind == GC_OP_BACKWARD ||
                       before->kind == GC_OP_COTANGENT || before->t1 != op.t0))
        fail(GC_INVALID,
             "operation %" PRId64 ": no operation just before it ends at step %" PRId64 ".", i,
             op.t0);
      if (op.from_slot == GC_FROM_START && op.t0 != 0)
        fail(GC_INVALID,
             "operation %" PRId64 ": the start is the state at step 0, not at %" PRId64 ".", i,
             op.t0);
      if (!previous && op.from_slot != GC_FROM_START &&
          (op.from_slot < 0 || op.from_slot >= call_.n_slots))
        fail(GC_INVALID, "operation %" PRId64 ": no slot %d.", i, op.from_slot);
      if (op.to_slot != GC_TO_NOWHERE && (op.to_slot < 0 || op.to_slot >= call_.n_slots))
        fail(GC_INVALID, "operation %" PRId64 ": no slot %d.", i, op.to_slot);
      tape_ = tape_ || op.kind == GC_OP_TAPE;
      emits_ = emits_ || op.kind == GC_OP_EMIT;
    }
    before = &op;
  }
  if (directs_ && (trains_ || !part_.first || !part_.last))
    fail(GC_INVALID,
         "cotangents go through nets whose layers all read time forward, in calls without "
         "BACKWARD.");
  if (directs_ && call_.directions < 1) fail(GC_INVALID, "directions must be 1 or more.");
  if (trains_ && call_.direction_state_out && call_.directions != 1)
    fail(GC_INVALID,
         "BACKWARD begins from one direction of direction_state_out; got %" PRId64 " directions.",
         call_.directions);
  if (trains_ && part_.last && call_.loss == GC_LOSS_NONE)
    fail(GC_INVALID, "BACKWARD needs a loss.");
  if (trains_ && !call_.grads) fail(GC_INVALID, "BACKWARD needs an array for the gradients.");
}

template <class T>
int64_t Job<T>::token(int64_t row) const {
  switch (call_.token_bytes) {
    case 1:
      return static_cast<const uint8_t*>(call_.tokens)[row];
    case 4:
      return static_cast<const int32_t*>(call_.tokens)[row];
    default:
      return static_cast<const int64_t*>(call_.tokens)[row];
  }
}

// Which arrays are there; not what they hold, so that bytes can be asked for before there is data.
template <class T>
void Job<T>::check_presence() {
  if (!call_.x == !call_.tokens) fail(GC_INVALID, "exactly one of x and tokens must be given.");
  if (net_.embedding_rows && !call_.tokens)
    fail(GC_INVALID, "a net that begins with an embedding takes tokens, not x.");
  if (call_.tokens && !net_.embedding_rows && net_.layers[0].spec.residual)
    fail(
        GC_INVALID,
        "a residual first layer adds its input to its output, and tokens are no such input: put an "
        "embedding before it, or take the residual connection away.");
  if (call_.tokens && !net_.embedding_rows && !net_.transforms[0].empty())
    fail(GC_INVALID,
         "a LayerNorm or Dropout before the first recurrent layer takes floats, and tokens are "
         "none: put an embedding before it.");
  if (call_.tokens && call_.token_bytes != 1 && call_.token_bytes != 4 && call_.token_bytes != 8)
    fail(GC_INVALID, "tokens must have 1, 4 or 8 bytes; got %d.", call_.token_bytes);
  if (call_.dx && call_.tokens) fail(GC_INVALID, "tokens have no gradient: dx needs float input.");
  if (call_.dx && !call_.dx_exponent) fail(GC_INVALID, "dx needs dx_exponent.");
  if (call_.dstate && !call_.dstate_exponent) fail(GC_INVALID, "dstate needs dstate_exponent.");
  if (call_.hidden && !call_.hidden_exponent) fail(GC_INVALID, "hidden needs hidden_exponent.");
  if (!call_.params) fail(GC_INVALID, "params is missing.");
  if (call_.tokens && call_.direction_x)
    fail(GC_INVALID, "tokens have no directions: direction_x needs float input.");
  if (call_.direction_x && !call_.direction_exponent)
    fail(GC_INVALID, "direction_x needs direction_exponent.");
  if (call_.direction_state && !call_.direction_state_exponent)
    fail(GC_INVALID, "direction_state needs direction_state_exponent.");
  if (call_.loss < GC_LOSS_NONE || call_.loss > GC_LOSS_GIVEN)
    fail(GC_INVALID, "unknown loss %d.", call_.loss);
  if (call_.loss == GC_LOSS_CALLBACK && !call_.loss_fn)
    fail(GC_INVALID, "the loss callback is missing.");
  if (has_terms() && !call_.target) fail(GC_INVALID, "the loss needs targets.");
}

template <class T>
void Job<T>::check_tangents() const {
  if (K_ < 0 || call_.curvature < GC_CURVATURE_NONE || call_.curvature > GC_CURVATURE_GAUSS_NEWTON)
    fail(GC_INVALID, "unknown curvature %d, or a negative number of tangents.", call_.curvature);
  if (!K_ && call_.curvature != GC_CURVATURE_NONE) fail(GC_INVALID, "a curvature needs a tangent.");
  if (!K_) return;
  if (K_ > INT32_MAX / 4 / B_) fail(GC_INVALID, "tangents times batch must be below 2^29.");
  if (call_.t_x && call_.tokens)
    fail(GC_INVALID, "tokens have no tangents: t_x needs float input.");
  if (!hessian_ && !gauss_newton_) {
    if (trains_ || tape_)
      fail(GC_INVALID, "tangents without a curvature are for plans of EMIT and FORWARD.");
    if (part_.last && (!call_.outputs || !call_.t_outputs || !call_.t_exponent))
      fail(GC_INVALID, "tangents need outputs, t_outputs and t_exponent.");
    if (!call_.t_state_out != !call_.t_state_exponent)
      fail(GC_INVALID, "t_state_out needs t_state_exponent.");
    return;
  }
  if (!trains_ || K_ != 1) fail(GC_INVALID, "a curvature needs BACKWARD and one tangent.");
  if (call_.loss == GC_LOSS_CALLBACK)
    fail(GC_INVALID, "a loss function has no known Hessian: use a loss of gradcore.");
  if (call_.loss == GC_LOSS_GIVEN && gauss_newton_)
    fail(GC_INVALID, "a given gradient of the outputs has no Gauss-Newton matrix.");
  if (hessian_ && (!call_.product || !call_.no_scaling))
    fail(GC_INVALID, "a Hessian needs an array for the product, and adjoints without a scale.");
  if (hessian_ && ((call_.t_dx && !call_.dx) || (call_.t_dstate && !call_.dstate)))
    fail(GC_INVALID, "t_dx needs dx, and t_dstate needs dstate.");
}

// What is as large as numbers say, with no array of the caller's behind it. Found by fuzzing: 2^61
// slots of 8 rows took no room, because their product wraps, and lay over whatever came next.
template <class T>
void Job<T>::check_sizes() const {
  if (call_.n_slots < 0 || call_.directions < 0)
    fail(GC_INVALID,
         "the numbers of slots and directions must not be negative; got %" PRId64 " and %" PRId64
         ".",
         call_.n_slots, call_.directions);
  double bytes = 0;
  for (const Layer& l : net_.layers) {
    const auto lead = static_cast<double>(l.lead), B = static_cast<double>(B_);
    const double copies = 1 + static_cast<double>(K_) + static_cast<double>(call_.directions),
                 steps = block_steps + static_cast<double>(segment_) + lead +
                         static_cast<double>(call_.n_slots) * (lead + l.states),
                 planes = l.gates + l.states + l.saved + l.planes,
                 row = static_cast<double>(l.Hp) * planes + static_cast<double>(l.Ip + net_.Op);
    bytes += copies * steps * B * row * sizeof(T) +
             static_cast<double>(K_) * static_cast<double>(l.Hp * (l.Hp + l.Ip)) * l.gates;
  }
  if (bytes > 1e18)
    fail(GC_NO_MEMORY,
         "The call needs more than 10^18 bytes: of %" PRId64 " sequences, segments of %" PRId64
         " steps, %" PRId64 " slots, %" PRId64 " tangents and %" PRId64 " directions.",
         B_, segment_, call_.n_slots, K_, call_.directions);
}

template <class T>
void Job<T>::check_contents() {
  for (int64_t b = 0; call_.lengths && b < B_; b++) {
    const int64_t n = call_.lengths[b];
    if (n < 0 || n > T_)
      fail(GC_INVALID, "lengths must be in 0..%" PRId64 "; lengths[%" PRId64 "] = %" PRId64 ".", T_,
           b, n);
    if (!part_.reverse) min_length_ = n < min_length_ ? n : min_length_;
  }
  const int64_t vocabulary = net_.vocabulary();
  for (int64_t r = 0; call_.tokens && r < T_ * B_; r++) {
    const int64_t t = r / B_, b = r % B_;
    if (call_.lengths && t >= call_.lengths[b]) continue;
    const int64_t v = token(r);
    if (v < 0 || v >= vocabulary)
      fail(GC_INVALID,
           "tokens must be in 0..%" PRId64 "; x[%" PRId64 ", %" PRId64 "] = %" PRId64 ".",
           vocabulary - 1, t, b, v);
  }
  if (call_.loss != GC_LOSS_CROSS_ENTROPY) return;
  const auto* target = static_cast<const int64_t*>(call_.target);
  for (int64_t r = 0; r < (call_.loss_last ? B_ : T_ * B_); r++) {
    const int64_t b = r % B_, t = r / B_;
    if (call_.lengths && (call_.loss_last ? call_.lengths[b] == 0 : t >= call_.lengths[b]))
      continue;
    if (target[r] != call_.ignore_index && (target[r] < 0 || target[r] >= net_.outputs))
      fail(GC_INVALID,
           "targets must be classes in 0..%" PRId64 " or ignore_index = %" PRId64
           "; sequence %" PRId64 ", step %" PRId64 " has %" PRId64 ".",
           net_.outputs - 1, call_.ignore_index, b, call_.loss_last ? T_ - 1 : t, target[r]);
  }
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
