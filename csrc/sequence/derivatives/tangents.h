// Tangents of a part: those of its stages, their exponent, and the steps that have to be done
// again.
#pragma once
#include <memory>
#include <type_traits>
#include <vector>

#include "sequence/derivatives/tangent_border.h"
#include "sequence/derivatives/tangent_dense.h"
#include "sequence/derivatives/tangent_input.h"
#include "sequence/derivatives/tangent_outputs.h"
#include "sequence/derivatives/tangent_pool.h"
#include "sequence/derivatives/tangent_recurrent.h"
#include "sequence/derivatives/tangent_static.h"
#include "sequence/derivatives/tangent_token_taps.h"
#include "sequence/derivatives/tangent_transforms.h"
#include "sequence/derivatives/tangent_window.h"

namespace gradcore {

// The tangent of a stage that needs nothing but what the stage and the tangent below know. A new
// kind of stage has its line here.
template <class S>
struct TangentOf;
template <class T>
struct TangentOf<LayerNorm<T>> : std::type_identity<TangentLayerNorm<T>> {};
template <class T>
struct TangentOf<Dropout<T>> : std::type_identity<TangentDropout<T>> {};
template <class T>
struct TangentOf<Dense<T>> : std::type_identity<TangentDense<T>> {};
template <class T>
struct TangentOf<Activation<T>> : std::type_identity<TangentActivation<T>> {};
template <class T>
struct TangentOf<Fork<T>> : std::type_identity<TangentFork<T>> {};
template <class T>
struct TangentOf<Sum<T>> : std::type_identity<TangentSum<T>> {};
template <class T>
struct TangentOf<StaticInput<T>> : std::type_identity<TangentStatic<T>> {};
template <class T>
struct TangentOf<Pool<T>> : std::type_identity<TangentPool<T>> {};

// The recursion of tangents is linear in what enters it, so that all tangents of a part are kept
// times one power of two. It is looked at every 8 absolute steps; where the states grew so much in
// eight steps that sums could overflow, those are done again one by one. With a curvature there is
// no scale.
template <class T>
class Tangents {
 public:
  explicit Tangents(Context<T>& context);

  // Tangents of one stage after the other, from the lowest on.
  template <class S>
  void follow_stage(S& stage) {
    using Made = typename TangentOf<S>::type;
    chain_.push_back(std::make_unique<Made>(tangents_, stage, last()));
  }
  void follow_stage(Input<T>& input);
  void follow_stage(Border<T>& border);
  void follow_stage(Recurrent<T>& recurrent);
  void follow_stage(Window<T>& window);
  void follow_stage(TokenTaps<T>& taps);
  void follow_stage(Loss<T>& loss);
  void follow_stage(Exit<T>& exit);
  Tangent<T>& of(size_t stage) { return *chain_[stage]; }
  void lay_out(Layout& layout);

  // Packs parameters and sets out from the initial state.
  void start(Worker& m);
  // Thread 0 only, as the functions of Stage of the same names.
  void begin_segment(const gc_op& op);
  void end_segment(const gc_op& op);
  void follow(int me) { tangents_.band.follow(me); }

  // Steps of a chunk of at most look_steps, without a tape: steps(chunk) makes those of the stages
  // and of their tangents, finish(chunk) passes on what is final.
  template <class Steps, class Finish>
  void forward(Worker& m, const Chunk& chunk, Steps steps, Finish finish);
  // Outputs of a chunk whose tangents are final, to the caller or to the next part: the tangents of
  // the stages from `ending` on.
  void pass_on(Worker& m, const Chunk& chunk, size_t ending);

  // With a curvature.
  void start_backward(const Worker& m);
  void end_backward();
  void unpack_product(T* product) const;
  void add_static(StaticGradient& total) const;

 private:
  Tangent<T>* last() { return chain_.empty() ? nullptr : chain_.back().get(); }
  void adjust(Worker& m, const Chunk& chunk);
  void scale_parameters(T factor);
  double largest(Worker& m, const Chunk& chunk);
  double largest_behind(Worker& m, int64_t first);
  bool look(Worker& m, const Chunk& chunk);
  bool finite(Worker& m, const Chunk& chunk);
  void keep(Worker& m, const Chunk& chunk);

  TangentContext<T> tangents_;
  std::vector<std::unique_ptr<Tangent<T>>> chain_;  // by stage
  std::vector<TangentStates<T>*> states_;           // of layers and windows
  TangentSource<T>* input_ = nullptr;
  TangentLoss<T>* loss_ = nullptr;
  TangentTokenTaps<T>* taps_ = nullptr;
};

template <class T>
template <class Steps, class Finish>
void Tangents<T>::forward(Worker& m, const Chunk& chunk, Steps steps, Finish finish) {
  constexpr int headroom = std::numeric_limits<T>::max_exponent / 2;
  // Whether a chunk's states are small enough for their sums.
  auto go = [&](const Chunk& part) {
    adjust(m, part);
    steps(part);
    m.barrier();
    return look(m, part);
  };
  const double before = tangents_.band.look(m.me);
  const bool bounded = go(chunk);
  const double after = tangents_.band.look(m.me);
  // What has shrunk out of sight in eight steps may go on in single ones.
  const bool vanished = after == 0 ? before > 0 : exponent_of(after) < -headroom;
  if ((bounded && !vanished) || chunk.n == 1) {
    if (!finite(m, chunk)) return;
    finish(chunk);
    keep(m, chunk);
    return;
  }
  // The state before the chunk is as adjust() left it.
  tangents_.band.see(m.me, before > 0 ? largest_behind(m, chunk.first) : 0);
  for (int64_t i = 0; i < chunk.n; i++) {
    const Chunk step{chunk.first + i, 1};
    go(step);
    if (!finite(m, step)) return;
    finish(step);
    keep(m, step);
  }
}

}  // namespace gradcore
