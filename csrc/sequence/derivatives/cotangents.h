// Cotangents of a part: K vector-Jacobian products at once, of outputs and of the final state in,
// of x and of the initial state out.
#pragma once
#include <memory>
#include <type_traits>
#include <vector>

#include "sequence/derivatives/cotangent_stages.h"
#include "sequence/derivatives/cotangent_window.h"

namespace gradcore {

// The cotangent of a stage that needs nothing but what the stage knows. A new kind of stage has its
// line here.
template <class S>
struct CotangentOf;
template <class T>
struct CotangentOf<LayerNorm<T>> : std::type_identity<CotangentLayerNorm<T>> {};
template <class T>
struct CotangentOf<Dropout<T>> : std::type_identity<CotangentDropout<T>> {};
template <class T>
struct CotangentOf<Dense<T>> : std::type_identity<CotangentDense<T>> {};
template <class T>
struct CotangentOf<Activation<T>> : std::type_identity<CotangentActivation<T>> {};
template <class T>
struct CotangentOf<Fork<T>> : std::type_identity<CotangentFork<T>> {};
template <class T>
struct CotangentOf<Sum<T>> : std::type_identity<CotangentSum<T>> {};
template <class T>
struct CotangentOf<StaticInput<T>> : std::type_identity<CotangentStatic<T>> {};
template <class T>
struct CotangentOf<Input<T>> : std::type_identity<CotangentInput<T>> {};

// All cotangents are kept times one power of two, which is looked at every 8 steps.
template <class T>
class Cotangents {
 public:
  explicit Cotangents(Context<T>& context) : cotangents_(context) {}

  // Cotangents of one stage after the other, from the lowest on; those of outputs and loss are the
  // caller's.
  template <class S>
  void follow_stage(S& stage) {
    top_ = &stage;
    chain_.push_back(std::make_unique<typename CotangentOf<S>::type>(cotangents_, stage));
  }
  void follow_stage(Recurrent<T>& recurrent);
  void follow_stage(Window<T>& window);
  void follow_stage(TokenTaps<T>& taps);
  void lay_out(Layout& layout);

  // From the final state; behind step 0, to the initial one.
  void start(Worker& m);
  void finish(const Worker& m);
  void add_static(StaticGradient& total) const;
  // Steps of a chunk of at most look_steps.
  void backward(Worker& m, const Chunk& chunk);
  void follow(int me) { cotangents_.band.follow(me); }

 private:
  T* arriving(const Worker& m, const Chunk& chunk);
  // Whether something enters between the ends, at exponent 0.
  bool enters() const { return cotangents_.primal.call.cotangents.outputs; }
  double largest(Worker& m, bool with_ring);
  void scale(const Worker& m, T factor);

  CotangentContext<T> cotangents_;
  Stage<T>* top_ = nullptr;  // the last stage that is followed
  std::vector<std::unique_ptr<Cotangent<T>>> chain_;
  template <class Made, class S>
  void follow_carried(S& stage);
  std::vector<CarriedCotangent<T>*> layers_;
  T* outputs_ = nullptr;  // [n][rows][Op] of a chunk
};

}  // namespace gradcore
