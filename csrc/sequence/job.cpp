#include "sequence/job.h"

#include <ctime>

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "sequence/stages/activation.h"
#include "sequence/stages/dense.h"
#include "sequence/stages/dropout.h"
#include "sequence/stages/exit.h"
#include "sequence/stages/input.h"
#include "sequence/stages/layer_norm.h"
#include "sequence/stages/recurrent.h"
#include "sequence/stages/token_taps.h"
#include "sequence/stages/window.h"
#include "sequence/validate.h"

namespace gradcore {

// Every 20 ms at most: cheap against a chunk, quick against a person.
static constexpr int64_t poll_interval_ns = 20'000'000;

// Whether something other than a recurrence reads earlier steps.
static bool reads_back(const Network& net) {
  return !net.windows().empty() || std::any_of(net.layers.begin(), net.layers.end(),
                                               [](const Layer& layer) { return layer.has_skip(); });
}

// Steps of a chunk: the widest rows of one take up 256 KB, and it is a power of two of steps
// between one look and one block. Tangents that are rescaled need one exponent for a chunk.
static int64_t steps_of_chunk(const Network& net, const gc_call& call, const Purpose& purpose) {
  if (purpose.scaled_tangents()) return look_steps;
  const int64_t element = net.dtype == GC_FLOAT32 ? 4 : 8;
  int64_t row = 1, steps = block_steps;
  for (const Layer& l : net.layers) {
    const int64_t widest = l.pass ? 1 : std::max(l.planes, l.gates);
    row = std::max(row, call.batch * l.Hp * widest);
  }
  const Transform* const window = purpose.looks_up_taps ? &net.front()[0] : nullptr;
  for (const std::vector<Transform>& transforms : net.transforms)
    for (const Transform& t : transforms)
      if (&t != window && (t.spec.kind == GC_DENSE || t.spec.kind == GC_WINDOW))
        row = std::max(row, call.batch * (window && &t == window + 1 ? t.O : std::max(t.I, t.O)));
  while (steps > look_steps && steps * row * element > 256 * 1024) steps /= 2;
  return steps;
}

// ---- building

template <class T>
Job<T>::Job(const Part& part, gc_call& call, const Link<T>& link, Progress& progress)
    : context_{part,
               part.net,
               call,
               link,
               kernels<T>(),
               check_call(part, call),
               MaskSource(call, kernels<T>()),
               Division(part.net, call, call.tangents.count + call.cotangents.count),
               Timeline(call, part.reverse, reads_back(part.net)),
               {}},
      progress_(progress) {
  context_.chunk_steps = steps_of_chunk(part.net, call, context_.purpose);
  context_.segment_steps = std::min(call.segment_steps, call.steps);
  if (context_.purpose.tangents) tangents_.emplace(context_);
  if (context_.purpose.cotangents) cotangents_.emplace(context_);
  build();
  lay_out();
}

// A new kind of stage is built here.
template <class T>
void Job<T>::build() {
  const Part& part = context_.part;
  add<Input<T>>();
  for (size_t l = 0; l < part.net.layers.size(); l++) {
    if (part.net.layers[l].pass) continue;
    add_transforms(l, 0, part.net.transforms[l].size());
    add<Recurrent<T>>(stages_.back().get(), static_cast<int>(l));
  }
  add_ending();
}

// A window keeps what it reads, and its state goes on from operation to operation, so that all up
// to the last one belongs to the layers.
template <class T>
void Job<T>::add_ending() {
  const Part& part = context_.part;
  const std::vector<Transform>& behind = part.net.transforms.back();
  const size_t reader = part.net.layers.size();
  size_t kept = behind.size();
  while (kept > 0 && behind[kept - 1].spec.kind != GC_WINDOW) kept--;
  if (kept == 1 && context_.purpose.looks_up_taps && reader == 1 && part.net.layers[0].pass)
    kept = 2;  // the convolution is one stage
  add_transforms(reader, 0, kept);
  ending_ = stages_.size();
  const bool outputs = context_.purpose.puts_out, ends = outputs || context_.purpose.cotangents;
  if (part.last && !ends) return;
  add_transforms(reader, kept, behind.size());
  if (!part.last) {
    add<Exit<T>>(stages_.back().get());
    return;
  }
  if (part.net.has_head) add<Dense<T>>(stages_.back().get(), part.net.head, false, true);
  if (outputs) loss_ = &add<Loss<T>>(stages_.back().get());
}

// Transforms [begin,end) of those in front of a layer, or behind the last one.
template <class T>
void Job<T>::add_transforms(size_t reader, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i++) {
    const Transform& transform = context_.net.transforms[reader][i];
    if (context_.purpose.looks_up_taps && stages_.size() == 1) {
      add<TokenTaps<T>>(stages_.back().get(), transform, context_.net.transforms[reader][++i]);
      continue;
    }
    if (acts(transform, context_.call))
      add_transform(transform, context_.link.joins && reader == 0);
  }
}

template <class T>
void Job<T>::add_transform(const Transform& transform, bool joins) {
  Stage<T>* const below = stages_.back().get();
  switch (transform.spec.kind) {
    case GC_LAYER_NORM:
      add<LayerNorm<T>>(below, transform, joins);
      break;
    case GC_DROPOUT:
      add<Dropout<T>>(below, transform);
      break;
    case GC_DENSE:
      add<Dense<T>>(below, transform, joins, false);
      break;
    case GC_ACTIVATION:
      add<Activation<T>>(below, transform);
      break;
    case GC_WINDOW:
      add<Window<T>>(below, transform);
      break;
    case GC_RESIDUAL_BEGIN:
      forks_.push_back(&add<Fork<T>>(below));
      break;
    default:
      add<Sum<T>>(below, *forks_.back());
      forks_.pop_back();
  }
}

// A stage with its tangents and cotangents.
template <class T>
template <class S, class... Arguments>
S& Job<T>::add(Arguments&&... arguments) {
  auto made = std::make_unique<S>(context_, std::forward<Arguments>(arguments)...);
  S& stage = *made;
  stages_.push_back(std::move(made));
  if (tangents_) tangents_->follow_stage(stage);
  if constexpr (!std::is_same_v<S, Loss<T>> && !std::is_same_v<S, Exit<T>>)
    if (cotangents_) cotangents_->follow_stage(stage);
  return stage;
}

template <class T>
void Job<T>::lay_out() {
  for (auto& stage : stages_) stage->lay_out(layout_);
  context_.timeline.lay_out(layout_);
  if (tangents_) tangents_->lay_out(layout_);
  if (cotangents_) cotangents_->lay_out(layout_);
  workers_.resize(static_cast<size_t>(context_.division.threads()));
  for (Worker& m : workers_)
    for (int32_t*& exponents : m.exponents) layout_.announce(exponents, context_.chunk_steps);
}

template <class T>
void Job<T>::start() {
  check_contents(context_.part, context_.call);
  arena_.emplace(layout_.bytes());
  layout_.place(arena_->data());
  context_.timeline.start();
  if (loss_) loss_->start();
}

// ---- running

template <class T>
void Job<T>::run(int64_t n) {
  if (next_op_ == 0) start();
  const int64_t last = next_op_ + n;
  auto body = [&](Team& team, int me) {
    Worker& m = workers_[static_cast<size_t>(me)];
    m.me = me;
    m.team = &team;
    m.size = team.size();
    m.parity = 0;
    execute(m, last);
    if (me == 0) context_.call.threads_used = m.size;
  };
  while (next_op_ < last) {
    const bool alone = starved_lately() && !context_.call.exact_threads;
    run_team(alone ? 1 : context_.division.threads(), body);
    started_backward_ = context_.goes_back;
  }
  if (context_.stopped) fail(GC_INTERRUPTED, "a callback asked to stop.");
  const NonFinite first = context_.crew.first_nonfinite();
  if (first.layer != INT64_MAX) report(first);
}

// The operations before `last`, or fewer where thread 0 is alone and the others could come back.
template <class T>
void Job<T>::execute(Worker& m, int64_t last) {
  const gc_op* const ops = context_.call.ops;
  const int64_t first = next_op_;
  if (m.me != 0) follow(m.me);
  m.barrier();
  if (first == 0) {
    for (auto& stage : stages_) stage->pack(m);
    if (tangents_) tangents_->start(m);
    m.barrier();
  }
  const bool backward = std::any_of(ops + first, ops + last,
                                    [](const gc_op& op) { return op.kind == GC_OP_BACKWARD; });
  if (backward && !started_backward_) {
    for (auto& stage : stages_) stage->start_backward(m);
    if (context_.purpose.hessian) tangents_->start_backward(m);
  }
  m.barrier();
  for (int64_t i = first; i < last; i++) {
    const gc_op& op = ops[i];
    const bool more = op.kind == GC_OP_BACKWARD    ? backward_op(m, op)
                      : op.kind == GC_OP_COTANGENT ? cotangent_op(m, op)
                                                   : forward_op(m, op);
    if (m.me == 0) next_op_ = more ? i + 1 : last;
    if (!more) return;
    if (m.size == 1 && context_.division.threads() > 1 && !starved_lately()) return;
  }
}

template <class T>
void Job<T>::follow(int me) {
  for (auto& stage : stages_) stage->follow(me);
  if (tangents_) tangents_->follow(me);
  if (cotangents_) cotangents_->follow(me);
}

// ---- forward

template <class T>
void Job<T>::begin_segment(const Worker& m, const gc_op& op) {
  if (m.me == 0) {
    for (auto& stage : stages_) stage->begin_segment(op);
    if (tangents_) tangents_->begin_segment(op);
    context_.origin = op.t0;
  }
  m.barrier();
}

template <class T>
void Job<T>::end_segment(const Worker& m, const gc_op& op) {
  if (m.me != 0) return;
  for (auto& stage : stages_) stage->end_segment(op);
  if (tangents_) tangents_->end_segment(op);
}

// Whether the stages behind the layers run in an operation that goes forward: outputs of the part
// go to the next one when its steps are done for the first time.
template <class T>
bool Job<T>::puts_out(const gc_op& op) const {
  const gc_call& call = context_.call;
  const int64_t index = &op - call.ops;
  if (!context_.part.last) return index < context_.purpose.first_backward;
  const bool gives = call.loss == GC_LOSS_GIVEN && index < context_.purpose.first_backward;
  return loss_ && (op.kind == GC_OP_EMIT || gives) && (call.outputs || loss_has_terms(call));
}

template <class T>
void Job<T>::forward_layers(Worker& m, const gc_op& op, const Chunk& chunk) {
  for (size_t i = 0; i < ending_; i++) {
    stages_[i]->forward(m, chunk, op.kind == GC_OP_TAPE);
    if (tangents_) tangents_->of(i).forward(m, chunk);
  }
}

template <class T>
void Job<T>::forward_ending(Worker& m, const Chunk& chunk) {
  for (size_t i = ending_; i < stages_.size(); i++) stages_[i]->forward(m, chunk, false);
}

// Of a chunk whose tangents have to be done again in single steps, the next part must see the final
// ones only.
template <class T>
void Job<T>::forward_with_tangents(Worker& m, const gc_op& op, const Chunk& chunk) {
  tangents_->forward(
      m, chunk, [&](const Chunk& steps) { forward_layers(m, op, steps); },
      [&](const Chunk& steps) {
        if (!puts_out(op)) return;
        forward_ending(m, steps);
        tangents_->pass_on(m, steps, ending_);
      });
}

template <class T>
bool Job<T>::forward_op(Worker& m, const gc_op& op) {
  begin_segment(m, op);
  for (int64_t first = op.t0; first < op.t1; first += context_.chunk_steps) {
    const Chunk chunk{first, std::min(context_.chunk_steps, op.t1 - first)};
    if (context_.purpose.scaled_tangents()) {
      forward_with_tangents(m, op, chunk);
    } else {
      forward_layers(m, op, chunk);
      if (puts_out(op)) {
        forward_ending(m, chunk);
        if (tangents_ && !context_.part.last) tangents_->pass_on(m, chunk, ending_);
      }
    }
    if (!goes_on(m, chunk)) return false;
  }
  if (op.kind == GC_OP_EMIT && context_.call.loss == GC_LOSS_CALLBACK) {
    loss_->ask(m, op.t0, op.t1);
    if (judge(m) != Verdict::go_on) return false;
  }
  end_segment(m, op);
  return true;
}

// ---- backward

template <class T>
void Job<T>::backward_chunk(Worker& m, const Chunk& chunk) {
  const Purpose& purpose = context_.purpose;
  Gradient<T> d{};
  T* t_d = nullptr;
  for (size_t i = stages_.size(); i-- > 0 && stages_[i]->wants_gradient();) {
    const Gradient<T> below = stages_[i]->backward(m, chunk, d);
    // A product with the Gauss-Newton matrix differs from a gradient in where it starts from.
    if (purpose.hessian || (purpose.gauss_newton && stages_[i].get() == loss_))
      t_d = tangents_->of(i).backward(m, chunk, d, below, t_d);
    d = below;
  }
}

template <class T>
bool Job<T>::backward_op(Worker& m, const gc_op& op) {
  if (m.me == 0) context_.goes_back = true;
  if (context_.call.loss == GC_LOSS_CALLBACK) {
    loss_->ask(m, op.t0, op.t1);
    if (judge(m) != Verdict::go_on) return false;
  }
  for (int64_t end = op.t1; end > op.t0;) {
    const int64_t first = std::max((end - 1) / context_.chunk_steps * context_.chunk_steps, op.t0);
    const Chunk chunk{first, end - first};
    backward_chunk(m, chunk);
    if (!goes_on(m, chunk)) return false;
    end = first;
  }
  if (op.t0 != 0 || m.me != 0) return true;
  for (auto& stage : stages_) stage->end_backward(m);
  if (tangents_) tangents_->end_backward();
  return true;
}

template <class T>
bool Job<T>::cotangent_op(Worker& m, const gc_op& op) {
  if (m.me == 0) context_.goes_back = true;
  if (op.t1 == context_.timeline.steps) cotangents_->start(m);
  for (int64_t end = op.t1; end > op.t0;) {
    const int64_t first = (end - 1) / look_steps * look_steps;
    const Chunk chunk{first, end - first};
    cotangents_->backward(m, chunk);
    if (!goes_on(m, chunk)) return false;
    end = first;
  }
  if (op.t0 == 0) cotangents_->finish(m);
  return true;
}

// ---- going on

template <class T>
bool Job<T>::goes_on(Worker& m, const Chunk& chunk) {
  if (m.me == 0) progress_.done += chunk.n;
  return judge(m) == Verdict::go_on;
}

template <class T>
typename Job<T>::Verdict Job<T>::judge(Worker& m) {
  Verdict mine = context_.crew.has_nonfinite(m.me) ? Verdict::stop : Verdict::go_on;
  if (m.me == 0) {
    poll(*m.team);
    if (context_.stopped)
      mine = Verdict::stop;
    else if (mine == Verdict::go_on && m.size > 1 && m.team->starved())
      mine = Verdict::one_thread;
  }
  const auto all = static_cast<Verdict>(
      static_cast<int>(context_.crew.reduce_max(m, static_cast<double>(mine))));
  if (all != Verdict::one_thread) return all;
  if (m.me != 0) return Verdict::stop;
  m.team->dissolve();
  m.size = 1;
  return Verdict::go_on;
}

template <class T>
void Job<T>::poll(Team& team) {
  gc_call& call = context_.call;
  if (!call.poll) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  if (ns - progress_.last_poll_ns < poll_interval_ns) return;
  progress_.last_poll_ns = ns;
  const Callback outside(team);
  if (call.poll(call.poll_context, progress_.done, progress_.total)) context_.stopped = true;
}

template <class T>
void Job<T>::report(const NonFinite& o) {
  gc_call& call = context_.call;
  const Network& net = context_.net;
  const bool head = o.layer == static_cast<int64_t>(net.layers.size());
  const Layer& at = head || o.tangent ? net.top() : net.layers[static_cast<size_t>(o.layer)];
  const int layer = at.index + (head && !at.pass ? 1 : 0);
  call.where_layer = layer;
  call.where_step = context_.timeline.time(o.step);
  call.where_sequence = o.sequence;
  const auto step = static_cast<long long>(call.where_step),
             sequence = static_cast<long long>(o.sequence);
  if (o.adjoint)
    fail(GC_NONFINITE,
         "the gradient overflowed within one step: recurrent layer %d, step %lld. The cell's "
         "Jacobian there is beyond the range of the dtype; look at the weights, or use float64.",
         layer, step);
  if (o.tangent)
    fail(GC_NONFINITE,
         "a tangent overflowed within one step, step %lld, though the states are finite: a "
         "Jacobian there is beyond the range of the dtype, or the directions are not finite. Look "
         "at dparams, dx and dstate, or use float64.",
         step);
  if (head && loss_->target_is_nan(call.where_step, o.sequence))
    fail(GC_NONFINITE,
         "the target of step %lld, sequence %lld is NaN. If targets are missing, pass a loss with "
         "nan=\"ignore\" (in C: gc_call.ignore_nan = 1), and they count for nothing.",
         step, sequence);
  if (head)
    fail(GC_NONFINITE,
         "the loss is not finite at step %lld, sequence %lld, though the states are: outputs too "
         "large, or targets or weights not finite.",
         step, sequence);
  fail(GC_NONFINITE,
       "the forward pass gave a value that is not finite: recurrent layer %d, step %lld, sequence "
       "%lld. Either the input or a parameter is not finite, or the layer overflowed there (an "
       "unbounded recurrence with a spectral radius above 1).",
       layer, step, sequence);
}

// ---- results

template <class T>
int64_t Job<T>::gradient_exponent() const {
  int64_t most = INT64_MIN;
  for (const auto& stage : stages_) most = std::max(most, stage->gradient_exponent());
  return most;
}

template <class T>
void Job<T>::unpack_gradients(int64_t exponent) {
  for (auto& stage : stages_) stage->unpack(static_cast<T*>(context_.call.grads), exponent);
}

template <class T>
void Job<T>::unpack_product() {
  tangents_->unpack_product(static_cast<T*>(context_.call.tangents.product));
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
