#include "sequence/derivatives/tangents.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

// Where a curvature goes back, a segment's tangents are kept; else a chunk's, or a block's where a
// skip connection or a window makes it costly to carry over what it reaches back to.
template <class T>
static int64_t kept_steps(const Context<T>& context) {
  if (context.purpose.curvature()) return context.segment_steps;
  for (const StateShape* state : context.net.states())
    if (state->lead > look_steps) return block_steps;
  return context.chunk_steps;
}

template <class T>
Tangents<T>::Tangents(Context<T>& context) : tangents_(context) {
  tangents_.length = kept_steps(context);
}

template <class T>
void Tangents<T>::follow_stage(Input<T>& input) {
  const Context<T>& c = tangents_.primal;
  const auto& readers = c.net.transforms[0];
  const bool transformed = std::any_of(readers.begin(), readers.end(),
                                       [&](const Transform& t) { return acts(t, c.call); });
  auto made = std::make_unique<TangentInput<T>>(tangents_, input, transformed);
  input_ = made.get();
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(Border<T>& border) {
  auto made = std::make_unique<TangentBorder<T>>(tangents_, border);
  input_ = made.get();
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(Recurrent<T>& recurrent) {
  auto made = std::make_unique<TangentRecurrent<T>>(tangents_, recurrent, last());
  states_.push_back(&made->states());
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(Window<T>& window) {
  auto made = std::make_unique<TangentWindow<T>>(tangents_, window, last());
  states_.push_back(&made->states());
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(TokenTaps<T>& taps) {
  auto made = std::make_unique<TangentTokenTaps<T>>(tangents_, taps, last());
  taps_ = made.get();
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(Loss<T>& loss) {
  auto made = std::make_unique<TangentLoss<T>>(tangents_, loss, last());
  loss_ = made.get();
  chain_.push_back(std::move(made));
}

template <class T>
void Tangents<T>::follow_stage(Exit<T>& exit) {
  const size_t n = chain_.size();
  Tangent<T>* const layer_input = n > 1 ? chain_[n - 2].get() : nullptr;
  chain_.push_back(std::make_unique<TangentExit<T>>(tangents_, exit, last(), layer_input));
}

template <class T>
void Tangents<T>::lay_out(Layout& layout) {
  for (auto& tangent : chain_) tangent->lay_out(layout);
}

// ---- segments

template <class T>
void Tangents<T>::start(Worker& m) {
  const Context<T>& c = tangents_.primal;
  const T* given = static_cast<const T*>(c.call.tangents.state);
  double most = 0;
  for (const StateShape* shape : c.net.states())
    for (int64_t k = 0; given && k < tangents_.K; k++) {
      const T* state = given + c.state_place(*shape, k);
      for (int64_t i = 0; i < state_elements(*shape, c.timeline.batch); i++)
        most = std::max(most, std::fabs(static_cast<double>(state[i])));
    }
  tangents_.band.start(m.me, 0, most);
  for (auto& tangent : chain_) tangent->pack(m);
  m.barrier();
  if (m.me != 0) return;
  scale_parameters(T(1));
  for (TangentStates<T>* states : states_) states->start();
}

template <class T>
void Tangents<T>::begin_segment(const gc_op& op) {
  for (TangentStates<T>* states : states_) states->load(op);
  if (tangents_.primal.purpose.curvature() || op.from_slot == GC_FROM_START)
    tangents_.origin = op.t0;
}

template <class T>
void Tangents<T>::end_segment(const gc_op& op) {
  for (TangentStates<T>* states : states_) states->save_slot(op);
}

// ---- the exponent

template <class T>
void Tangents<T>::scale_parameters(T factor) {
  if (!tangents_.primal.purpose.moved_parameters) return;
  for (auto& tangent : chain_) tangent->scale_parameters(factor);
}

template <class T>
double Tangents<T>::largest(Worker& m, const Chunk& chunk) {
  const Slice own = m.slice_of(chunk.n * tangents_.primal.timeline.batch);
  double most = 0;
  for (const TangentStates<T>* states : states_) most = std::max(most, states->largest(chunk, own));
  return tangents_.primal.crew.reduce_max(m, most);
}

template <class T>
double Tangents<T>::largest_behind(Worker& m, int64_t first) {
  double most = 0;
  for (size_t l = static_cast<size_t>(m.me); l < states_.size(); l += static_cast<size_t>(m.size))
    most = std::max(most, states_[l]->largest_behind(first));
  return tangents_.primal.crew.reduce_max(m, most);
}

// Before the steps of a chunk.
template <class T>
void Tangents<T>::adjust(Worker& m, const Chunk& chunk) {
  const int32_t before = tangents_.band.exponent(m.me);
  const int32_t source = input_->source(m, chunk),
                needed = taps_ && taps_->enters(chunk) ? std::max(source, 0) : source;
  tangents_.band.adjust(
      m.me, needed, [&] { return largest_behind(m, chunk.first); },
      [&](T factor) {
        m.barrier();
        for (const TangentStates<T>* states : states_)
          if (m.me == 0) states->scale(chunk.first, factor);
      });
  if (tangents_.band.exponent(m.me) == before) return;
  m.barrier();
  if (m.me == 0) scale_parameters(tangents_.factor(0));
  m.barrier();
}

// Behind the steps of a chunk: false if some states are so large that sums of them could overflow.
template <class T>
bool Tangents<T>::look(Worker& m, const Chunk& chunk) {
  constexpr int headroom = std::numeric_limits<T>::max_exponent / 2;
  const double all = largest(m, chunk);
  const bool more = chunk.n > 1 && std::isfinite(all);
  tangents_.band.see(m.me, more ? largest(m, {chunk.end() - 1, 1}) : all);
  return std::isfinite(all) && exponent_of(all) <= headroom;
}

template <class T>
bool Tangents<T>::finite(Worker& m, const Chunk& chunk) {
  if (std::isfinite(tangents_.band.look(m.me))) return true;
  const auto layers = static_cast<int64_t>(tangents_.primal.net.layers.size());
  tangents_.primal.crew.report(m.me, {layers + 1, chunk.first, 0, false, true});
  return false;
}

template <class T>
void Tangents<T>::pass_on(Worker& m, const Chunk& chunk, size_t ending) {
  for (size_t i = ending; i < chain_.size(); i++) chain_[i]->forward(m, chunk);
  if (loss_) loss_->emit(m, chunk);
}

// Final states, and the state that the next chunk begins with.
template <class T>
void Tangents<T>::keep(Worker& m, const Chunk& chunk) {
  const Context<T>& c = tangents_.primal;
  m.barrier();
  if (m.me == 0) {
    const int64_t kept = chunk.end() - tangents_.origin;
    const int32_t exponent = tangents_.band.exponent(0);
    const bool full = kept == tangents_.length;
    for (TangentStates<T>* states : states_) {
      if (c.call.tangents.state_out) states->capture(chunk, exponent);
      if (full) states->carry_over(kept);
      if (c.call.tangents.state_out && chunk.end() == c.timeline.steps) states->fold(exponent);
    }
    if (full) tangents_.origin = chunk.end();
  }
  m.barrier();
}

// ---- with a curvature

template <class T>
void Tangents<T>::start_backward(const Worker& m) {
  for (auto& tangent : chain_) tangent->start_backward(m);
}

template <class T>
void Tangents<T>::end_backward() {
  for (auto& tangent : chain_) tangent->end_backward();
}

template <class T>
void Tangents<T>::unpack_product(T* product) const {
  for (auto& tangent : chain_) tangent->unpack(product);
}

template <class T>
void Tangents<T>::add_static(StaticGradient& total) const {
  for (auto& tangent : chain_) tangent->add_static(total);
}

template class Tangents<float>;
template class Tangents<double>;

}  // namespace gradcore
