#include "sequence/pipeline.h"

#include <algorithm>
#include <cinttypes>
#include <limits>

#include "base/errors.h"

namespace gradcore {

template <class T>
Pipeline<T>::Pipeline(const Network& net, gc_call& call) : call_(call), parts_(net.parts()) {
  if (call.gates || call.hidden || call.hidden_log2_norm) net.at(call.hidden_direction);
  divide_plan();
  // Checks of the plan and of what is there; pointers between parts only have to be something.
  Carver count;
  lay_out(count);
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

// Parts read what others have left: all outputs of the part before, and, going back, the gradients
// from the part after. Each part's own operations are looked at by its job. Of plans that run only:
// for the bytes of one, a few operations stand for all.
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
      if (op.t1 == call_.steps) ahead[p] = true;
    }
  }
  for (size_t p = 0; any_back && p < parts_.size(); p++)
    if (!back[p]) fail(GC_INVALID, "part %zu of the net never goes back to step 0.", p);
}

template <class T>
void Pipeline<T>::lay_out(Carver& carver) {
  meetings_.assign(parts_.size(), Meeting{});
  for (size_t p = 0; p + 1 < parts_.size(); p++) {
    if (parts_[p].reverse) {
      meetings_[p] = meetings_[p - 1];
      continue;
    }
    const int64_t size = call_.steps * call_.batch * parts_[p].width;
    meetings_[p].out = carver.take<T>(size);
    if (call_.tangents > 0) {
      meetings_[p].t_out = carver.take<T>(size * call_.tangents);
      for (int32_t*& exponents : meetings_[p].t_exponent)
        exponents = carver.take<int32_t>(call_.steps);
      if (call_.curvature == GC_CURVATURE_HESSIAN) meetings_[p].t_d_out = carver.take<T>(size);
    }
    if (!trains_) continue;
    meetings_[p].d_out = carver.take<T>(size);
    meetings_[p].d_out_exponent = carver.take<int32_t>(call_.steps);
  }
}

template <class T>
void Pipeline<T>::make_jobs() {
  jobs_.clear();
  calls_.assign(parts_.size(), call_);
  for (size_t p = 0; p < parts_.size(); p++) {
    const Part& part = parts_[p];
    gc_call& call = calls_[p];
    call.ops = parts_.size() == 1 ? call_.ops : ops_[p].data();
    call.n_ops = n_ops_[p];
    if (!part.last) {
      call.loss = GC_LOSS_NONE;
      call.target = call.weight = call.class_weight = nullptr;
      call.outputs = nullptr;
    }
    if (!part.first) {
      const Meeting& before = meetings_[p - (part.reverse ? 2 : 1)];
      call.tokens = nullptr;
      // Before there is an arena, any pointer stands for an array that will be there.
      call.x = arena_ ? before.out : static_cast<const void*>(this);
      call.dx = !trains_ ? nullptr : arena_ ? before.d_out : static_cast<void*>(this);
      call.dx_exponent = arena_ ? before.d_out_exponent : reinterpret_cast<int32_t*>(this);
    }
    const bool both = part.reverse || (p + 1 < parts_.size() && parts_[p + 1].reverse);
    Link<T> link{};
    link.out = meetings_[p].out;
    link.d_out = meetings_[p].d_out;
    link.d_out_exponent = meetings_[p].d_out_exponent;
    link.marks_zeros = !part.first || both;
    link.joins = both && !part.reverse;
    if (call_.tangents > 0) link_tangents(p, link);
    jobs_.push_back(std::make_unique<Job<T>>(part, call, link, progress_));
  }
}

template <class T>
void Pipeline<T>::link_tangents(size_t p, Link<T>& link) {
  const Part& part = parts_[p];
  link.t_out = meetings_[p].t_out;
  link.t_out_exponent = meetings_[p].t_exponent[part.reverse];
  link.t_d_out = meetings_[p].t_d_out;
  if (part.first) link.t_dx = static_cast<T*>(call_.t_dx);
  if (part.first) return;
  const Part& before = parts_[p - (part.reverse ? 2 : 1)];
  const Meeting& meeting = meetings_[p - (part.reverse ? 2 : 1)];
  // As above: before there is an arena, any pointer.
  link.t_in = arena_ ? meeting.t_out : reinterpret_cast<const T*>(this);
  link.t_in_exponent[0] = meeting.t_exponent[0];
  link.t_in_exponent[1] = meeting.t_exponent[1];
  link.t_in_split = before.reverse ? before.column : before.width;
  link.t_dx = meeting.t_d_out;
}

template <class T>
int64_t Pipeline<T>::bytes() {
  Carver count;
  lay_out(count);
  int64_t all = 0, most = 0;
  for (const auto& job : jobs_) {
    const int64_t own = job->bytes();
    all += own;
    most = std::max(most, own);
  }
  // The plan of a long sequence is a large array too: the caller's, and the parts' own.
  const int64_t plan = call_.n_ops * static_cast<int64_t>(sizeof(gc_op)),
                plans = parts_.size() == 1 ? plan : 2 * plan;
  // Without backward a part is done before the next begins.
  return static_cast<int64_t>(count.used()) + plans + (trains_ ? all : most);
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
  if (parts_.size() > 1) {
    Carver count;
    lay_out(count);
    arena_.emplace(count.used());
    Carver carver(arena_->data());
    lay_out(carver);
    make_jobs();
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
}

template <class T>
void Pipeline<T>::begin() {
  if (!trains_ || call_.loss != GC_LOSS_GIVEN)
    fail(GC_INVALID, "a pass in two calls needs a plan with BACKWARD, and GC_LOSS_GIVEN.");
  start();
  advance(ahead());
}

template <class T>
void Pipeline<T>::go_back(const void* d_outputs) {
  if (next_ != ahead())
    fail(GC_INVALID, "a pass goes back once: its memory is used up. Begin another.");
  check_given(d_outputs);
  // Only the last part reads it.
  calls_.back().d_outputs = d_outputs;
  try {
    advance(call_.n_ops);
    finish();
  } catch (...) {
    next_ = call_.n_ops;
    throw;
  }
}

template <class T>
void Pipeline<T>::check_given(const void* d_outputs) const {
  if (call_.loss == GC_LOSS_GIVEN && !d_outputs) fail(GC_INVALID, "d_outputs is missing.");
}

// The gradients' exponent is 0 where the largest of them is well inside the range of the dtype;
// else it is the largest one's.
template <class T>
void Pipeline<T>::finish() {
  int64_t most = INT64_MIN;
  for (const auto& job : jobs_) most = std::max(most, job->gradient_exponent());
  // Room for the bits of smaller elements below, for sums of a few gradients above.
  const bool fits = most == INT64_MIN || (most > std::numeric_limits<T>::min_exponent + 30 &&
                                          most < std::numeric_limits<T>::max_exponent - 8);
  call_.grads_exponent = fits ? 0 : most;
  // In the order of backward: the second direction to come adds to the first.
  for (auto job = jobs_.rbegin(); job != jobs_.rend(); job++)
    (*job)->unpack_gradients(call_.grads_exponent);
  if (call_.curvature == GC_CURVATURE_HESSIAN)
    for (auto job = jobs_.rbegin(); job != jobs_.rend(); job++) (*job)->unpack_product();
  // What two directions have added up says where it is zero.
  if (call_.dx && parts_.size() > 1)
    for (int64_t t = 0; t < call_.steps; t++)
      if (call_.dx_exponent[t] == no_exponent) call_.dx_exponent[t] = 0;
}

template class Pipeline<float>;
template class Pipeline<double>;

}  // namespace gradcore
