#include "sequence/pipeline.h"

#include <algorithm>
#include <cinttypes>
#include <limits>

#include "base/errors.h"
#include "sequence/presence.h"
#include "sequence/scale/exponents.h"
#include "sequence/validate.h"

namespace gradcore {

// The jobs' constructors only check which arrays exist. The addresses of those between parts are
// set when the plan runs.
template <class T>
Pipeline<T>::Pipeline(const Network& net, gc_call& call)
    : net_(net), call_(call), parts_(net.parts()), initial_(net_, call) {
  if (has(call, GC_ARRAY_GATES) || has(call, GC_ARRAY_HIDDEN) ||
      has(call, GC_ARRAY_HIDDEN_LOG2_NORM))
    net.at(call.hidden.direction);
  if (has(call, GC_ARRAY_GATES)) {
    const gc_cell_facts& cell = *gc_cell_info(net.at(call.hidden.direction).spec.cell);
    if (!cell.keeps_gates)
      fail(GC_INVALID,
           "the cell %s does not tell the activations of its gates: its forward() needs a last "
           "argument to which it writes them.",
           cell.name);
  }
  check_steps(parts_, call);
  check_statics(net, call);
  steps_ = steps_of(parts_, call.steps);
  divide_plan();
  lay_out();
  make_jobs();
}

template <class T>
void Pipeline<T>::divide_plan() {
  if (call_.n_ops < 1 || !call_.ops) fail(GC_INVALID, "a plan needs at least one operation.");
  const auto n = static_cast<int32_t>(parts_.size());
  ops_.resize(parts_.size());
  n_ops_.assign(parts_.size(), 0);
  for (int64_t i = 0; i < call_.n_ops; i++) {
    const gc_op& op = call_.ops[i];
    if (op.part < 0 || op.part >= n)
      fail(GC_INVALID, "operation %" PRId64 ": the net has parts 0..%d; got %d.", i, n - 1,
           op.part);
    n_ops_[static_cast<size_t>(op.part)]++;
    trains_ = trains_ || op.kind == GC_OP_BACKWARD;
    progress_.total += op.t1 - op.t0;
  }
  for (const int64_t count : n_ops_)
    if (!count) fail(GC_INVALID, "every part of the net needs operations in the plan.");
  if (n == 1) return;
  for (size_t p = 0; p < parts_.size(); p++) ops_[p].reserve(static_cast<size_t>(n_ops_[p]));
  for (int64_t i = 0; i < call_.n_ops; i++)
    ops_[static_cast<size_t>(call_.ops[i].part)].push_back(call_.ops[i]);
}

// Checks that every part runs after those it reads from: forward after all outputs of the part
// before, backward after all gradients of the part after. A part's own operations are checked by
// its job. Only plans that run are checked, since a few operations can stand for a whole plan when
// only its bytes are asked for.
template <class T>
void Pipeline<T>::check_order() const {
  if (parts_.size() == 1) return;
  std::vector<bool> ahead(parts_.size()), back(parts_.size());
  bool any_back = false;
  for (int64_t i = 0; i < call_.n_ops; i++) {
    const gc_op& op = call_.ops[i];
    const auto p = static_cast<size_t>(op.part);
    if (op.kind == GC_OP_BACKWARD || op.kind == GC_OP_COTANGENT) {
      any_back = true;
      if (p + 1 < parts_.size() && !back[p + 1])
        fail(GC_INVALID, "operation %" PRId64 ": part %d goes back before part %d has.", i, op.part,
             op.part + 1);
      if (op.t0 == 0) back[p] = true;
    } else {
      if (p > 0 && !ahead[p - 1])
        fail(GC_INVALID, "operation %" PRId64 ": part %d goes forward before part %d has.", i,
             op.part, op.part - 1);
      if (op.t1 == steps_[p]) ahead[p] = true;
    }
  }
  for (size_t p = 0; any_back && p < parts_.size(); p++)
    if (!back[p]) fail(GC_INVALID, "part %zu of the net never goes back to step 0.", p);
}

template <class T>
void Pipeline<T>::lay_out() {
  initial_.lay_out(layout_, trains_);
  if (has(call_, GC_ARRAY_D_STATICS) || has(call_, GC_ARRAY_COTANGENT_STATICS)) {
    statics_.emplace(call_.batch * std::max<int64_t>(call_.cotangents.count, 1), net_.statics);
    statics_->lay_out(layout_);
  }
  meetings_.resize(parts_.size());
  lengths_.resize(parts_.size());
  reset_.resize(parts_.size());
  for (size_t p = 0; p < parts_.size(); p++) {
    if (!parts_[p].shortens()) continue;
    if (has(call_, GC_ARRAY_LENGTHS)) layout_.announce(lengths_[p], call_.batch);
    if (has(call_, GC_ARRAY_RESET)) layout_.announce(reset_[p], steps_[p] * call_.batch);
  }
  for (size_t p = 0; p + 1 < parts_.size(); p++) {
    if (parts_[p].reverse) continue;
    Meeting& meeting = meetings_[p];
    const int64_t steps = steps_behind(p), size = steps * call_.batch * parts_[p].width;
    layout_.announce(meeting.out, size);
    if (call_.tangents.count > 0) {
      layout_.announce(meeting.t_out, size * call_.tangents.count);
      for (int32_t*& exponents : meeting.t_exponent) layout_.announce(exponents, steps);
      if (call_.tangents.curvature == GC_CURVATURE_HESSIAN) layout_.announce(meeting.t_d_out, size);
    }
    if (!trains_) continue;
    layout_.announce(meeting.d_out, size);
    layout_.announce(meeting.d_out_exponent, steps);
  }
}

// Makes the call of part p from the caller's. A part that is not the first or last reads its input
// or its gradient from a Meeting instead of the caller's arrays.
template <class T>
gc_call Pipeline<T>::call_of(size_t p) const {
  const Part& part = parts_[p];
  gc_call call = call_;
  call.steps = steps_[p];
  uint64_t arrays = arrays_of(call_);
  auto set = [&](int array, bool there) {
    arrays = there ? arrays | uint64_t{1} << array : arrays & ~(uint64_t{1} << array);
  };
  if (parts_.size() > 1) call.ops = ops_[p].data();
  call.n_ops = n_ops_[p];
  if (!part.last) {
    call.loss = {};
    call.outputs = nullptr;
    for (const int array :
         {GC_ARRAY_TARGET, GC_ARRAY_WEIGHT, GC_ARRAY_CLASS_WEIGHT, GC_ARRAY_OUTPUTS})
      set(array, false);
  }
  if (!part.first) {
    call.tokens = call.x = call.dx = nullptr;
    call.dx_exponent = nullptr;
    set(GC_ARRAY_TOKENS, false);
    set(GC_ARRAY_X, true);
    set(GC_ARRAY_DX, trains_);
    set(GC_ARRAY_DX_EXPONENT, trains_);
    call.tangents.x = nullptr;
    set(GC_ARRAY_T_X, false);
  }
  call.arrays = initial_.promise(arrays);
  return call;
}

template <class T>
void Pipeline<T>::make_jobs() {
  links_.resize(parts_.size());
  for (size_t p = 0; p < parts_.size(); p++) calls_.push_back(call_of(p));
  for (size_t p = 0; p < parts_.size(); p++) {
    const Part& part = parts_[p];
    const bool both = part.reverse || (p + 1 < parts_.size() && parts_[p + 1].reverse);
    Link<T>& link = links_[p];
    link.marks_zeros = !part.first || both || part.border;
    link.joins = both && !part.reverse;
    jobs_.push_back(std::make_unique<Job<T>>(part, calls_[p], link, progress_));
  }
}

template <class T>
Source Pipeline<T>::source(size_t p) const {
  if (parts_[p].first) return {call_.steps, call_.lengths, call_.reset};
  const auto before = static_cast<size_t>(parts_[p].before);
  return {steps_[before], lengths_[before], reset_[before]};
}

// The lengths and resets of a part, from those of what it reads.
template <class T>
void Pipeline<T>::shorten(size_t p) {
  const Source from = source(p);
  if (!parts_[p].shortens()) {
    lengths_[p] = const_cast<int64_t*>(from.lengths);
    reset_[p] = const_cast<uint8_t*>(from.reset);
    return;
  }
  const int64_t B = call_.batch;
  for (int64_t b = 0; from.lengths && b < B; b++) lengths_[p][b] = parts_[p].steps(from.lengths[b]);
  if (!from.reset) return;
  const int64_t stride = parts_[p].border->spec.stride;
  zero(reset_[p], steps_[p] * B);
  int64_t earlier = 1;  // the strides of the windows before this one
  for (size_t q = p; !parts_[q].first;) {
    q = static_cast<size_t>(parts_[q].before);
    if (parts_[q].border) earlier *= parts_[q].border->spec.stride;
  }
  for (int64_t s = 0; s < from.steps; s++)
    for (int64_t b = 0; b < B; b++) {
      if (!from.reset[s * B + b] || !from.active(s, b)) continue;
      if (s % stride)
        fail(GC_INVALID,
             "the net makes one step of %" PRId64
             ", so that resets must be at multiples of that; "
             "got one at step %" PRId64 ", sequence %" PRId64 ".",
             stride * earlier, s * earlier, b);
      if (s / stride < steps_[p]) reset_[p][s / stride * B + b] = 1;
    }
}

// Gives part p the addresses of the arrays through which it meets its neighbours.
template <class T>
void Pipeline<T>::connect(size_t p) {
  const Part& part = parts_[p];
  initial_.lend(calls_[p]);
  Link<T>& link = links_[p];
  link.source = source(p);
  calls_[p].lengths = lengths_[p];
  calls_[p].reset = reset_[p];
  if (!part.last) {
    const Meeting& meeting = behind(p);
    link.out = meeting.out;
    link.d_out = meeting.d_out;
    link.d_out_exponent = meeting.d_out_exponent;
    link.t_out = meeting.t_out;
    link.t_out_exponent = meeting.t_exponent[part.reverse];
    link.t_d_out = meeting.t_d_out;
  }
  if (part.first) {
    link.t_dx = static_cast<T*>(call_.tangents.dx);
    return;
  }
  const Meeting& meeting = before(p);
  // The other direction, if there is one, has the columns behind.
  const auto other = static_cast<size_t>(part.before) + 1;
  const bool both = other < parts_.size() && parts_[other].reverse;
  calls_[p].x = meeting.out;
  calls_[p].dx = meeting.d_out;
  calls_[p].dx_exponent = meeting.d_out_exponent;
  link.t_in = meeting.t_out;
  link.t_in_exponent[0] = meeting.t_exponent[0];
  link.t_in_exponent[1] = meeting.t_exponent[1];
  link.t_in_split = both ? parts_[other].column : parts_[other - 1].width;
  link.t_dx = meeting.t_d_out;
}

template <class T>
int64_t Pipeline<T>::bytes() {
  int64_t all = 0, most = 0;
  for (const auto& job : jobs_) {
    const int64_t own = job->bytes();
    all += own;
    most = std::max(most, own);
  }
  // The plan of a long sequence is a large array too; with several parts each also has its own
  // copy.
  const int64_t plan = call_.n_ops * static_cast<int64_t>(sizeof(gc_op)),
                plans = parts_.size() == 1 ? plan : 2 * plan;
  // Without backward, each part releases its memory before the next begins.
  return static_cast<int64_t>(layout_.bytes()) + plans + (trains_ ? all : most);
}

template <class T>
void Pipeline<T>::start() {
  check_order();
  call_.arena_bytes = bytes();
  call_.grads_exponent = 0;
  call_.loss_value = 0;
  call_.loss_weight = 0;
  call_.where_layer = -1;
  call_.where_step = call_.where_sequence = -1;
  if (net_.statics) check_static_values(net_, call_);
  if (layout_.bytes() > 0) {
    arena_.emplace(layout_.bytes());
    layout_.place(arena_->data());
  }
  check_lengths(call_);
  initial_.start();
  for (size_t p = 0; p < parts_.size(); p++) {
    shorten(p);
    connect(p);
  }
  left_ = n_ops_;
}

template <class T>
int64_t Pipeline<T>::ahead() const {
  int64_t i = 0;
  while (i < call_.n_ops && call_.ops[i].kind != GC_OP_BACKWARD) i++;
  return i;
}

template <class T>
void Pipeline<T>::advance(int64_t end) {
  while (next_ < end) {
    const int32_t part = call_.ops[next_].part;
    int64_t n = 1;
    while (next_ + n < end && call_.ops[next_ + n].part == part) n++;
    const auto p = static_cast<size_t>(part);
    try {
      jobs_[p]->run(n);
    } catch (...) {
      call_.where_layer = calls_[p].where_layer;
      call_.where_step = calls_[p].where_step;
      call_.where_sequence = calls_[p].where_sequence;
      throw;
    }
    call_.threads_used = calls_[p].threads_used;
    if (parts_[p].last) {
      call_.loss_value = jobs_[p]->loss();
      call_.loss_weight = calls_[p].loss_weight;
    }
    left_[p] -= n;
    if (!left_[p] && !trains_) jobs_[p]->release();
    next_ += n;
  }
}

template <class T>
void Pipeline<T>::run() {
  if (trains_) check_given(call_.d_outputs);
  start();
  advance(call_.n_ops);
  if (trains_) finish();
  if (call_.cotangents.statics) finish_statics();
}

template <class T>
void Pipeline<T>::begin() {
  if (!trains_ || !loss_is_given(call_))
    fail(GC_INVALID, "a pass in two calls needs a plan with BACKWARD, and GC_LOSS_GIVEN.");
  start();
  advance(ahead());
}

template <class T>
void Pipeline<T>::go_back(const void* d_outputs) {
  if (next_ != ahead())
    fail(GC_INVALID, "a pass goes back once: its memory is used up. Begin another.");
  check_given(d_outputs);
  // Only the last part reads d_outputs.
  calls_.back().d_outputs = d_outputs;
  try {
    advance(call_.n_ops);
    finish();
  } catch (...) {
    next_ = call_.n_ops;
    throw;
  }
}

// Parts whose array lies in a Meeting keep it.
template <class T>
void Pipeline<T>::move(const gc_call& moved) noexcept {
  const auto replace = [&](auto member) {
    const auto before = member(call_);
    const auto after = member(moved);
    if (!before || !after) return;
    for (gc_call& call : calls_)
      if (member(call) == before) member(call) = after;
    member(call_) = after;
  };
  replace([](auto& call) -> auto& { return call.params; });
  replace([](auto& call) -> auto& { return call.x; });
  replace([](auto& call) -> auto& { return call.state; });
  replace([](auto& call) -> auto& { return call.cotangents.final_state; });
  replace([](auto& call) -> auto& { return call.grads; });
  replace([](auto& call) -> auto& { return call.dx; });
  replace([](auto& call) -> auto& { return call.dx_exponent; });
  replace([](auto& call) -> auto& { return call.dstate; });
  replace([](auto& call) -> auto& { return call.dstate_exponent; });
}

template <class T>
void Pipeline<T>::check_given(const void* d_outputs) const {
  if (loss_is_given(call_) && !d_outputs) fail(GC_INVALID, "d_outputs is missing.");
}

// Chooses the common exponent of the gradients: 0 where the largest gradient is well inside the
// range of the dtype, else the exponent of the largest.
template <class T>
void Pipeline<T>::finish() {
  initial_.end_backward();
  int64_t most = initial_.gradient_exponent();
  for (const auto& job : jobs_) most = std::max(most, job->gradient_exponent());
  // The margins leave room for the bits of smaller elements below and for sums of a few gradients
  // above.
  const bool fits = most == INT64_MIN || (most > std::numeric_limits<T>::min_exponent + 30 &&
                                          most < std::numeric_limits<T>::max_exponent - 8);
  call_.grads_exponent = fits ? 0 : most;
  // The jobs go in the order of backward, since the second direction to finish adds to the first.
  for (auto job = jobs_.rbegin(); job != jobs_.rend(); job++)
    (*job)->unpack_gradients(call_.grads_exponent);
  initial_.unpack(static_cast<T*>(call_.grads), call_.grads_exponent);
  if (call_.tangents.curvature == GC_CURVATURE_HESSIAN) {
    for (auto job = jobs_.rbegin(); job != jobs_.rend(); job++) (*job)->unpack_product();
    initial_.unpack_product(static_cast<T*>(call_.tangents.product));
  }
  if (call_.statics.gradient) finish_statics();
  // Inside the core no_exponent marks steps at which dx is zero; the caller gets the exponent 0
  // there.
  if (call_.dx && (parts_.size() > 1 || parts_[0].border))
    for (int64_t t = 0; t < call_.steps; t++)
      if (call_.dx_exponent[t] == no_exponent) call_.dx_exponent[t] = 0;
}

// The order of what joins is fixed, so that the bits are.
template <class T>
void Pipeline<T>::finish_statics() {
  statics_->start();
  if (call_.cotangents.statics) {
    for (const auto& job : jobs_) job->add_static_cotangents(*statics_);
    initial_.add_static_cotangents(*statics_);
    statics_->write_cotangents(static_cast<T*>(call_.cotangents.statics),
                               call_.cotangents.statics_exponent, call_.cotangents.count);
    return;
  }
  for (const auto& job : jobs_) job->add_static(*statics_);
  initial_.add_static(*statics_);
  statics_->write(static_cast<T*>(call_.statics.gradient), call_.statics.exponent);
  if (!call_.tangents.d_statics) return;
  statics_->start();
  for (const auto& job : jobs_) job->add_static_tangent(*statics_);
  initial_.add_static_tangent(*statics_);
  int32_t exponent = 0;
  statics_->write(static_cast<T*>(call_.tangents.d_statics), &exponent);
  if (exponent)
    fail(GC_NONFINITE,
         "the Hessian-vector product overflowed by the static inputs; scale the direction or the "
         "loss down, or use float64.");
}

template class Pipeline<float>;
template class Pipeline<double>;

}  // namespace gradcore
