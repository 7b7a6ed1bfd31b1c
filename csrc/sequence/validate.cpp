// What a call must satisfy before anything runs.
#include "sequence/validate.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>

#include "base/errors.h"
#include "sequence/losses.h"
#include "sequence/presence.h"
#include "sequence/timeline.h"
#include "sequence/tokens.h"

namespace gradcore {
namespace {

// The range of operation i, which is at most `segment` steps long.
void check_range(const gc_op& op, int64_t i, int64_t steps, int64_t segment) {
  if (op.t0 < 0 || op.t1 <= op.t0 || op.t1 > steps || op.t0 % block_steps ||
      op.t1 - op.t0 > segment || (op.t1 % block_steps && op.t1 != steps))
    fail(GC_INVALID,
         "operation %" PRId64 ": a range must begin at a multiple of %" PRId64
         ", end at one or at %" PRId64 ", and be at most segment_steps = %" PRId64
         " long; got [%" PRId64 ", %" PRId64 ").",
         i, block_steps, steps, segment, op.t0, op.t1);
  if (op.kind < GC_OP_FORWARD || op.kind > GC_OP_COTANGENT)
    fail(GC_INVALID, "operation %" PRId64 ": unknown kind %d.", i, op.kind);
}

bool goes_back(const gc_op& op) { return op.kind == GC_OP_BACKWARD || op.kind == GC_OP_COTANGENT; }

// Where operation i, which goes forward, finds its state and leaves it. before: the operation
// before it, or null.
void check_slots(const gc_op& op, int64_t i, const gc_op* before, int64_t n_slots) {
  const bool previous = op.from_slot == GC_FROM_PREVIOUS;
  if (previous && (!before || goes_back(*before) || before->t1 != op.t0))
    fail(GC_INVALID, "operation %" PRId64 ": no operation just before it ends at step %" PRId64 ".",
         i, op.t0);
  if (op.from_slot == GC_FROM_START && op.t0 != 0)
    fail(GC_INVALID, "operation %" PRId64 ": the start is the state at step 0, not at %" PRId64 ".",
         i, op.t0);
  if (!previous && op.from_slot != GC_FROM_START && (op.from_slot < 0 || op.from_slot >= n_slots))
    fail(GC_INVALID, "operation %" PRId64 ": no slot %d.", i, op.from_slot);
  if (op.to_slot != GC_TO_NOWHERE && (op.to_slot < 0 || op.to_slot >= n_slots))
    fail(GC_INVALID, "operation %" PRId64 ": no slot %d.", i, op.to_slot);
}

Purpose check_plan(const gc_call& call) {
  Purpose purpose;
  if (call.n_ops < 1 || !call.ops) fail(GC_INVALID, "a plan needs at least one operation.");
  const int64_t segment = call.segment_steps < call.steps ? call.segment_steps : call.steps;
  const gc_op* before = nullptr;
  for (int64_t i = 0; i < call.n_ops; i++) {
    const gc_op& op = call.ops[i];
    check_range(op, i, call.steps, segment);
    if (goes_back(op)) {
      if (!before || before->kind != GC_OP_TAPE || before->t0 != op.t0 || before->t1 != op.t1)
        fail(GC_INVALID,
             "operation %" PRId64
             ": BACKWARD and COTANGENT must follow the TAPE of the same range.",
             i);
    } else {
      check_slots(op, i, before, call.n_slots);
    }
    purpose.cotangents = purpose.cotangents || op.kind == GC_OP_COTANGENT;
    if (op.kind == GC_OP_BACKWARD && !purpose.trains) purpose.first_backward = i;
    purpose.trains = purpose.trains || op.kind == GC_OP_BACKWARD;
    purpose.tape = purpose.tape || op.kind == GC_OP_TAPE;
    purpose.emits = purpose.emits || op.kind == GC_OP_EMIT;
    before = &op;
  }
  return purpose;
}

void check_backward(const Part& part, const gc_call& call, const Purpose& purpose) {
  if (purpose.cotangents && (purpose.trains || !part.first || !part.last || part.border))
    fail(GC_INVALID,
         "cotangents go through nets whose layers all read time forward step by step, in calls "
         "without BACKWARD.");
  if (purpose.cotangents && call.cotangents.count < 1)
    fail(GC_INVALID, "cotangents.count must be 1 or more.");
  if (!purpose.trains) return;
  if (has(call, GC_ARRAY_COTANGENT_FINAL_STATE) && call.cotangents.count != 1)
    fail(GC_INVALID,
         "BACKWARD begins from one cotangent of the final state; cotangents.count is %" PRId64 ".",
         call.cotangents.count);
  if (part.last && call.loss.kind == GC_LOSS_NONE) fail(GC_INVALID, "BACKWARD needs a loss.");
  if (!has(call, GC_ARRAY_GRADS)) fail(GC_INVALID, "BACKWARD needs an array for the gradients.");
}

void check_input(const Part& part, const gc_call& call) {
  const Network& net = part.net;
  const bool tokens = has(call, GC_ARRAY_TOKENS);
  if (has(call, GC_ARRAY_X) == tokens)
    fail(GC_INVALID, "exactly one of x and tokens must be given.");
  if (net.embedding_rows && !tokens)
    fail(GC_INVALID, "a net that begins with an embedding takes tokens, not x.");
  if (!tokens) return;
  if (!net.embedding_rows && net.front().empty() && net.layers[0].spec.residual)
    fail(GC_INVALID,
         "a residual first layer adds its input to its output, and tokens are no such input: put "
         "an embedding before it, or take the residual connection away.");
  const bool alone = !net.front().empty() && !net.begins_with_convolution();
  if (!net.embedding_rows && (alone || part.border))
    fail(GC_INVALID,
         "a LayerNorm, a Dropout, a dense layer, a window, a static input or a residual connection "
         "before the first recurrent layer takes floats, and tokens are none: put an embedding "
         "before it.");
  if (call.token_bytes != 1 && call.token_bytes != 4 && call.token_bytes != 8)
    fail(GC_INVALID, "tokens must have 1, 4 or 8 bytes; got %d.", call.token_bytes);
  if (has(call, GC_ARRAY_DX)) fail(GC_INVALID, "tokens have no gradient: dx needs float input.");
  if (has(call, GC_ARRAY_COTANGENT_X))
    fail(GC_INVALID, "tokens have no cotangents: cotangents.x needs float input.");
  if (has(call, GC_ARRAY_T_X))
    fail(GC_INVALID, "tokens have no tangents: tangents.x needs float input.");
}

// Which arrays are there.
void check_presence(const Part& part, const gc_call& call) {
  check_input(part, call);
  struct Pair {
    int array, needed;
    const char *name, *needs;
  };
  static constexpr Pair pairs[] = {
      {GC_ARRAY_DX, GC_ARRAY_DX_EXPONENT, "dx", "dx_exponent"},
      {GC_ARRAY_DSTATE, GC_ARRAY_DSTATE_EXPONENT, "dstate", "dstate_exponent"},
      {GC_ARRAY_HIDDEN, GC_ARRAY_HIDDEN_EXPONENT, "hidden.adjoint", "hidden.exponent"},
      {GC_ARRAY_COTANGENT_X, GC_ARRAY_COTANGENT_X_EXPONENT, "cotangents.x",
       "cotangents.x_exponent"},
      {GC_ARRAY_COTANGENT_STATE, GC_ARRAY_COTANGENT_STATE_EXPONENT, "cotangents.state",
       "cotangents.state_exponent"},
  };
  for (const Pair& pair : pairs)
    if (has(call, pair.array) && !has(call, pair.needed))
      fail(GC_INVALID, "%s needs %s.", pair.name, pair.needs);
  if (!has(call, GC_ARRAY_PARAMS)) fail(GC_INVALID, "params is missing.");
  check_losses(part.net, call);
}

// Whether a loss of this kind has the curvature that is asked for.
void check_curved(int32_t loss, bool hessian) {
  if (loss == GC_LOSS_CALLBACK)
    fail(GC_INVALID, "a loss function has no known Hessian: use a loss of gradcore.");
  if (loss == GC_LOSS_GIVEN && !hessian)
    fail(GC_INVALID, "a given gradient of the outputs has no Gauss-Newton matrix.");
  if (loss == GC_LOSS_QUANTILE && !hessian)
    fail(GC_INVALID,
         "the quantile loss has no Gauss-Newton matrix: it is linear on both sides of its kink, so "
         "that its Hessian by the outputs is 0. Use Huber or GaussianNLL.");
}

void check_tangents(const Part& part, const gc_call& call, const Purpose& purpose) {
  const int64_t K = call.tangents.count;
  const int32_t curvature = call.tangents.curvature;
  if (K < 0 || curvature < GC_CURVATURE_NONE || curvature > GC_CURVATURE_GAUSS_NEWTON)
    fail(GC_INVALID, "unknown curvature %d, or a negative number of tangents.", curvature);
  if (!K && curvature != GC_CURVATURE_NONE) fail(GC_INVALID, "a curvature needs a tangent.");
  if (!K) return;
  if (K > INT32_MAX / 4 / call.batch) fail(GC_INVALID, "tangents times batch must be below 2^29.");
  if (curvature == GC_CURVATURE_NONE) {
    if (purpose.trains || purpose.tape)
      fail(GC_INVALID, "tangents without a curvature are for plans of EMIT and FORWARD.");
    if (part.last && (!has(call, GC_ARRAY_OUTPUTS) || !has(call, GC_ARRAY_T_OUTPUTS) ||
                      !has(call, GC_ARRAY_T_EXPONENT)))
      fail(GC_INVALID, "tangents need outputs, tangents.outputs and tangents.exponent.");
    if (has(call, GC_ARRAY_T_STATE_OUT) != has(call, GC_ARRAY_T_STATE_EXPONENT))
      fail(GC_INVALID, "tangents.state_out needs tangents.state_exponent.");
    return;
  }
  const bool hessian = curvature == GC_CURVATURE_HESSIAN;
  if (!purpose.trains || K != 1) fail(GC_INVALID, "a curvature needs BACKWARD and one tangent.");
  for (const gc_loss& loss : losses_of(call, part.net.outputs)) check_curved(loss.kind, hessian);
  if (hessian && (!has(call, GC_ARRAY_PRODUCT) || !call.no_scaling))
    fail(GC_INVALID, "a Hessian needs an array for the product, and adjoints without a scale.");
  if (hessian && ((has(call, GC_ARRAY_T_DX) && !has(call, GC_ARRAY_DX)) ||
                  (has(call, GC_ARRAY_T_DSTATE) && !has(call, GC_ARRAY_DSTATE))))
    fail(GC_INVALID, "tangents.dx needs dx, and tangents.dstate needs dstate.");
}

// The core trusts that products of sizes fit 64 bits. Most sizes are those of arrays that the
// caller has, but slots, cotangents and tangents are mere numbers: fuzzing found that 2^61 slots of
// 8 rows took up no memory, because their product wraps, and lay over whatever came next.
void check_sizes(const Network& net, const gc_call& call) {
  const int64_t K = call.tangents.count, cotangents = call.cotangents.count,
                segment = call.segment_steps < call.steps ? call.segment_steps : call.steps;
  if (call.n_slots < 0 || cotangents < 0)
    fail(GC_INVALID,
         "the numbers of slots and cotangents must not be negative; got %" PRId64 " and %" PRId64
         ".",
         call.n_slots, cotangents);
  double bytes = 0;
  for (const Layer& l : net.layers) {
    const auto lead = static_cast<double>(l.lead), B = static_cast<double>(call.batch);
    const double copies = 1 + static_cast<double>(K) + static_cast<double>(cotangents),
                 steps = block_steps + static_cast<double>(segment) + lead +
                         static_cast<double>(call.n_slots) * (lead + l.states),
                 planes = l.gates + l.states + l.saved + l.planes,
                 row = static_cast<double>(l.Hp) * planes + static_cast<double>(l.Ip + net.Op),
                 element = net.dtype == GC_FLOAT32 ? 4 : 8;
    bytes += copies * steps * B * row * element +
             static_cast<double>(K) * static_cast<double>(l.Hp * (l.Hp + l.Ip)) * l.gates;
  }
  for (const std::vector<Transform>& transforms : net.transforms)
    for (const Transform& t : transforms)
      bytes += (1 + static_cast<double>(K) + static_cast<double>(cotangents)) * 8 *
               (static_cast<double>(block_steps * call.batch) + static_cast<double>(t.I)) *
               static_cast<double>(t.O);
  bytes += (2 + static_cast<double>(K) + static_cast<double>(cotangents)) * 32 *
           static_cast<double>(call.batch) * static_cast<double>(net.statics);
  for (const Transform* window : net.windows())
    bytes += (1 + static_cast<double>(K) + static_cast<double>(cotangents)) * 8 *
             static_cast<double>(call.batch) * static_cast<double>(window->past.Hp) *
             (static_cast<double>(segment) +
              static_cast<double>(window->past.lead) * (3 + static_cast<double>(call.n_slots)));
  if (bytes > 1e18)
    fail(GC_NO_MEMORY,
         "The call needs more than 10^18 bytes: of %" PRId64 " sequences, segments of %" PRId64
         " steps, %" PRId64 " slots, %" PRId64 " tangents and %" PRId64 " cotangents.",
         call.batch, segment, call.n_slots, K, cotangents);
}

bool adds_statics(const Network& net) {
  for (const std::vector<Transform>& transforms : net.transforms)
    for (const Transform& t : transforms)
      if (t.spec.kind == GC_STATIC) return true;
  return false;
}

bool begins_elsewhere(const Layer& layer) { return layer.initial >= 0; }

}  // namespace

void check_statics(const Network& net, const gc_call& call) {
  if (net.statics && !has(call, GC_ARRAY_STATICS))
    fail(GC_INVALID,
         "the net reads %" PRId64 " static inputs of each sequence, and statics is missing.",
         net.statics);
  if (!net.statics)
    for (const int array : {GC_ARRAY_STATICS, GC_ARRAY_D_STATICS, GC_ARRAY_COTANGENT_STATICS,
                            GC_ARRAY_T_STATICS, GC_ARRAY_T_D_STATICS})
      if (has(call, array))
        fail(GC_INVALID,
             "the net reads no static inputs, and the call has them or their gradient.");
  if (has(call, GC_ARRAY_D_STATICS) && !has(call, GC_ARRAY_D_STATICS_EXPONENT))
    fail(GC_INVALID, "statics.gradient needs statics.exponent.");
  if (has(call, GC_ARRAY_COTANGENT_STATICS) && !has(call, GC_ARRAY_COTANGENT_STATICS_EXPONENT))
    fail(GC_INVALID, "cotangents.statics needs cotangents.statics_exponent.");
  if (has(call, GC_ARRAY_COTANGENT_STATICS) && call.cotangents.count > INT32_MAX / call.batch)
    fail(GC_INVALID, "cotangents times batch must be below 2^31.");
  if (has(call, GC_ARRAY_T_D_STATICS) && !has(call, GC_ARRAY_D_STATICS))
    fail(GC_INVALID, "tangents.d_statics needs statics.gradient.");
  if (has(call, GC_ARRAY_RESET) &&
      std::any_of(net.layers.begin(), net.layers.end(), begins_elsewhere))
    fail(GC_INVALID,
         "a reset sets the state to zero, and a layer of the net has another initial state: run "
         "what lies between two resets as sequences of their own.");
}

void check_static_values(const Network& net, gc_call& call) {
  auto check = [&](const auto* statics) {
    for (int64_t b = 0; b < call.batch; b++)
      for (int64_t s = 0; s < net.statics; s++) {
        if (std::isfinite(statics[b * net.statics + s])) continue;
        call.where_sequence = b;
        fail(GC_NONFINITE,
             "the static inputs of sequence %" PRId64 " are not finite: number %" PRId64 " is %g.",
             b, s, static_cast<double>(statics[b * net.statics + s]));
      }
  };
  if (net.dtype == GC_FLOAT32)
    check(static_cast<const float*>(call.statics.values));
  else
    check(static_cast<const double*>(call.statics.values));
}

void check_steps(const std::vector<Part>& parts, const gc_call& call) {
  if (call.steps < 1 || call.batch < 1)
    fail(GC_INVALID, "steps and batch must be at least 1; got %" PRId64 " and %" PRId64 ".",
         call.steps, call.batch);
  if (call.steps > INT32_MAX / 4 || call.batch > INT32_MAX / 4)
    fail(GC_INVALID, "steps and batch must be below 2^29; got %" PRId64 " and %" PRId64 ".",
         call.steps, call.batch);
  for (const int64_t steps : steps_of(parts, call.steps))
    if (steps < 1)
      fail(GC_INVALID,
           "%" PRId64
           " steps are too few: the windows in front of a layer are longer than what "
           "comes to it, so that no step remains.",
           call.steps);
  for (const Part& part : parts) {
    if (part.pool && has(call, GC_ARRAY_RESET))
      fail(GC_INVALID,
           "a net with a pool over the sequence takes no resets: a sequence that is cut has no "
           "single row. Give each piece as a sequence of its own.");
    const bool cuts =
        part.border && part.window().inside && part.window().length() > part.window().stride;
    if (cuts && has(call, GC_ARRAY_RESET))
      fail(GC_INVALID,
           "windows of %" PRId64 " steps at every step of %" PRId64
           " cannot be cut by resets: they "
           "lie in a sequence as a whole. Pad them, or pass the pieces as sequences of their own.",
           part.window().length(), part.window().stride);
  }
}

Purpose check_call(const Part& part, const gc_call& call) {
  Purpose purpose = check_plan(call);
  check_backward(part, call, purpose);
  check_presence(part, call);
  check_tangents(part, call, purpose);
  check_sizes(part.net, call);
  purpose.tangents = call.tangents.count;
  purpose.hessian = purpose.tangents && call.tangents.curvature == GC_CURVATURE_HESSIAN;
  purpose.gauss_newton = purpose.tangents && call.tangents.curvature == GC_CURVATURE_GAUSS_NEWTON;
  purpose.moved_parameters = purpose.tangents && has(call, GC_ARRAY_T_PARAMS);
  purpose.moved_statics =
      purpose.tangents && has(call, GC_ARRAY_T_STATICS) && adds_statics(part.net);
  const bool bare = has(call, GC_ARRAY_TOKENS) && !part.net.embedding_rows;
  purpose.looks_up_taps = bare && part.net.begins_with_convolution();
  purpose.reads_table = bare && !purpose.looks_up_taps;
  const bool wanted = has(call, GC_ARRAY_OUTPUTS) || call.loss.kind != GC_LOSS_NONE;
  purpose.puts_out = part.last && (purpose.trains || (purpose.emits && wanted));
  return purpose;
}

static void check_tokens(const Part& part, const gc_call& call, const Source& source) {
  const int64_t vocabulary = part.net.vocabulary(), B = call.batch;
  for (int64_t r = 0; call.tokens && r < source.steps * B; r++) {
    const int64_t t = r / B, b = r % B;
    if (!source.active(t, b)) continue;
    const int64_t v = token_at(call, r);
    if (v < 0 || v >= vocabulary)
      fail(GC_INVALID,
           "tokens must be in 0..%" PRId64 "; x[%" PRId64 ", %" PRId64 "] = %" PRId64 ".",
           vocabulary - 1, t, b, v);
  }
}

// Tokens before the first step are rows of the state, of zeros with a one at the token.
template <class T>
static void check_past_tokens(const Part& part, const gc_call& call) {
  const StateShape& past = part.net.front().front().past;
  const T* state = static_cast<const T*>(call.state) + past.state_offset * call.batch;
  for (int64_t r = 0; r < past.lead * call.batch; r++) {
    int64_t ones = 0, others = 0;
    for (int64_t v = 0; v < past.H; v++) {
      ones += state[r * past.H + v] == 1;
      others += state[r * past.H + v] != 0 && state[r * past.H + v] != 1;
    }
    if (others || ones > 1)
      fail(GC_INVALID,
           "the state of a convolution over tokens must have rows of zeros, or of zeros with a one "
           "at the token; row %" PRId64 " of sequence %" PRId64 " is another.",
           r / call.batch, r % call.batch);
  }
}

void check_lengths(const gc_call& call) {
  for (int64_t b = 0; call.lengths && b < call.batch; b++)
    if (call.lengths[b] < 0 || call.lengths[b] > call.steps)
      fail(GC_INVALID, "lengths must be in 0..%" PRId64 "; lengths[%" PRId64 "] = %" PRId64 ".",
           call.steps, b, call.lengths[b]);
}

void check_contents(const Part& part, const gc_call& call, const Source& source) {
  check_tokens(part, call, source);
  if (call.tokens && call.state && !part.net.embedding_rows && part.net.begins_with_convolution())
    part.net.dtype == GC_FLOAT32 ? check_past_tokens<float>(part, call)
                                 : check_past_tokens<double>(part, call);
  check_classes(part.net, call);
}

}  // namespace gradcore
