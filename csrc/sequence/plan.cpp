// Executes the plan: one parallel region, operations one after the other, chunks within them.
#include <ctime>

#include <algorithm>

#include "base/errors.h"
#include "sequence/job.h"

namespace gradcore {

// Every 20 ms at most: cheap against a chunk, quick against a person.
static constexpr int64_t poll_interval_ns = 20'000'000;

template <class T>
void Job<T>::poll(Team& team) {
  if (!call_.poll) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  if (ns - progress_.last_poll_ns < poll_interval_ns) return;
  progress_.last_poll_ns = ns;
  const Callback outside(team);
  if (call_.poll(call_.poll_context, progress_.done, progress_.total)) interrupted_ = true;
}

template <class T>
void Job<T>::start_segment(const Me& m, const gc_op& op) {
  if (m.me == 0) {
    for (int l = 0; l < L_; l++) {
      if (net_.layers[static_cast<size_t>(l)].pass) continue;
      if (op.from_slot == GC_FROM_START)
        load_start(l);
      else if (op.from_slot == GC_FROM_PREVIOUS)
        carry_over(l, op_steps_);
      else
        load_slot(l, op.from_slot);
      if (K_) move_tangents(l, op);
    }
    op_t0_ = op.t0;
    if (hessian_ || gauss_newton_ || op.from_slot == GC_FROM_START) tangent_origin_ = op.t0;
    op_steps_ = op.t1 - op.t0;
  }
  barrier(m);
}

template <class T>
bool Job<T>::forward_op(Me& m, const gc_op& op) {
  const bool again = &op - call_.ops > first_backward_;
  start_segment(m, op);
  for (int64_t first = op.t0; first < op.t1; first += chunk_) {
    const int64_t n = std::min(chunk_, op.t1 - first);
    const bool scaled = K_ && !hessian_ && !gauss_newton_;  // finish_tangents passes on
    if (scaled)
      forward_chunk(m, op, first, n);
    else
      forward_layers(m, op, first, n);
    if (link_.out && !again && !scaled) pass_on(m, first, n);
    if (link_.t_out && !again && !scaled) pass_tangents_on(m, first, n);
    if (m.me == 0) progress_.done += n;
    if (verdict(m) != Verdict::go_on) return false;
  }
  if (op.kind == GC_OP_EMIT && call_.loss == GC_LOSS_CALLBACK && !call_loss(m, op.t0, op.t1))
    return false;
  if (m.me != 0) return true;
  for (int l = 0; l < L_; l++) {
    if (net_.layers[static_cast<size_t>(l)].pass) continue;
    if (op.to_slot != GC_TO_NOWHERE) save_slot(l, op.to_slot, op.t1 - op.t0);
    if (K_ && op.to_slot != GC_TO_NOWHERE) save_tangent_slot(l, op.to_slot, op.t1 - op.t0);
    if (call_.state_out && !seen_backward_) capture_state(l, op.t0, op.t1);
  }
  return true;
}

template <class T>
bool Job<T>::backward_op(Me& m, const gc_op& op) {
  if (m.me == 0) seen_backward_ = true;
  if (call_.loss == GC_LOSS_CALLBACK && !call_loss(m, op.t0, op.t1)) return false;
  for (int64_t end = op.t1; end > op.t0;) {
    const int64_t first = std::max((end - 1) / chunk_ * chunk_, op.t0);
    backward_chunk(m, first, end - first);
    if (m.me == 0) progress_.done += end - first;
    if (verdict(m) != Verdict::go_on) return false;
    end = first;
  }
  if (op.t0 == 0 && call_.dstate && m.me == 0)
    for (int l = 0; l < L_; l++)
      if (!net_.layers[static_cast<size_t>(l)].pass) write_dstate(m, l);
  return true;
}

// The operations before `last`, or fewer where thread 0 is alone and the others could come back.
template <class T>
void Job<T>::execute(Me& m, int64_t last) {
  const int64_t first = next_op_;
  if (m.me != 0) follow(m);
  barrier(m);
  if (first == 0) {
    pack(m);
    if (m.me == 0 && last_reset_) find_resets();
    if (K_) start_tangents(m);
  }
  bool backward = false;
  for (int64_t i = first; i < last; i++) backward = backward || call_.ops[i].kind == GC_OP_BACKWARD;
  if (backward && !started_backward_) start_backward(m);
  barrier(m);
  for (int64_t i = first; i < last; i++) {
    const gc_op& op = call_.ops[i];
    const bool goes_on = op.kind == GC_OP_BACKWARD    ? backward_op(m, op)
                         : op.kind == GC_OP_COTANGENT ? cotangent_op(m, op)
                                                      : forward_op(m, op);
    if (m.me == 0) next_op_ = goes_on ? i + 1 : last;
    if (!goes_on) return;
    if (m.team_size == 1 && threads_ > 1 && !starved_lately()) return;
  }
}

// A thread that joins takes over what all threads of a team have come to.
template <class T>
void Job<T>::follow(Me& m) {
  const Me& leader = members_[0];
  std::copy(leader.exponent, leader.exponent + L_, m.exponent);
  std::copy(leader.part_exponent, leader.part_exponent + L_, m.part_exponent);
  std::copy(leader.sum_exponent, leader.sum_exponent + L_ + 1, m.sum_exponent);
  std::copy(leader.look, leader.look + L_, m.look);
  m.direction_exponent = leader.direction_exponent;
  m.tangent_exponent = leader.tangent_exponent;
  m.tangent_look = leader.tangent_look;
}

template <class T>
void Job<T>::start() {
  check_contents();
  Carver count;
  lay_out(count);
  arena_.emplace(count.used());
  Carver carver(arena_->data());
  lay_out(carver);
  if (carver.used() != count.used())
    fail(GC_INTERNAL, "the layout of a call depends on its own arrays: %zu bytes, then %zu.",
         count.used(), carver.used());
  if (part_.reverse) mirror_masks();
  if (chunk_loss_) {
    std::fill(chunk_loss_, chunk_loss_ + (T_ + chunk_ - 1) / chunk_, 0.0);
    if (has_terms()) {
      call_.loss_weight = total_weight();
      const bool per_output = call_.loss == GC_LOSS_BCE || call_.loss == GC_LOSS_MSE;
      if (per_output) call_.loss_weight *= static_cast<double>(net_.outputs);
      if (!std::isfinite(call_.loss_weight))
        fail(GC_INVALID, "the weights of the loss must be finite; their sum is %g.",
             call_.loss_weight);
      loss_factor_ = call_.loss_sum || call_.loss_weight == 0 ? 1 : 1 / call_.loss_weight;
    }
  }
  std::memset(zeros_, 0, static_cast<size_t>(zeros_count_) * sizeof(T));
}

template <class T>
void Job<T>::run(int64_t n) {
  if (next_op_ == 0) start();
  const int64_t last = next_op_ + n;
  auto body = [&](Team& team, int me) {
    Me& m = members_[static_cast<size_t>(me)];
    m.me = me;
    m.team = &team;
    m.team_size = team.size();
    m.parity = 0;
    execute(m, last);
    if (me == 0) call_.threads_used = m.team_size;
  };
  while (next_op_ < last) {
    run_team(starved_lately() && !call_.exact_threads ? 1 : threads_, body);
    started_backward_ = seen_backward_;
  }
  if (interrupted_ || callback_stopped_) fail(GC_INTERRUPTED, "a callback asked to stop.");
  const Offender first = *std::min_element(offenders_, offenders_ + max_team,
                                           [](const Offender& a, const Offender& b) {
                                             return a.layer != b.layer ? a.layer < b.layer
                                                    : a.step != b.step ? a.step < b.step
                                                                       : a.sequence < b.sequence;
                                           });
  if (first.layer != INT64_MAX) report(first);
}

template <class T>
double Job<T>::loss() const {
  if (!chunk_loss_) return 0;
  double sum = 0;
  for (int64_t c = 0; c < (T_ + chunk_ - 1) / chunk_; c++) sum += chunk_loss_[c];
  return sum * loss_factor_;
}

template <class T>
void Job<T>::report(const Offender& o) {
  const bool head = o.layer == L_;
  const Layer& at = head || o.tangent ? net_.top() : net_.layers[static_cast<size_t>(o.layer)];
  const int layer = at.index + (head && !at.pass ? 1 : 0);
  call_.where_layer = layer;
  call_.where_step = time(o.step);
  call_.where_sequence = o.sequence;
  const auto step = static_cast<long long>(time(o.step)),
             sequence = static_cast<long long>(o.sequence);
  if (o.adjoint)
    fail(GC_NONFINITE,
         "the gradient overflowed within one step: recurrent layer %d, step %lld. The cell's "
         "Jacobian there is beyond the "
         "range of the dtype; look at the weights, or use float64.",
         layer, step);
  if (o.tangent)
    fail(
        GC_NONFINITE,
        "a tangent overflowed within one step, step %lld, though the states are finite: a Jacobian "
        "there is beyond the range of the dtype, or the directions are not finite. Look at "
        "dparams, "
        "dx and dstate, or use float64.",
        step);
  if (head)
    fail(GC_NONFINITE,
         "the loss is not finite at step %lld, sequence %lld, though the states are: outputs too "
         "large, or targets or weights "
         "not finite.",
         step, sequence);
  fail(GC_NONFINITE,
       "the forward pass gave a value that is not finite: recurrent layer %d, step %lld, sequence "
       "%lld. Either the input or a "
       "parameter is not finite, or the layer overflowed there (an unbounded recurrence with a "
       "spectral radius above 1).",
       layer, step, sequence);
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
