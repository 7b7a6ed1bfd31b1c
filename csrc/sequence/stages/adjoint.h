// The adjoint recurrence of one layer: a chunk's steps from the last to the first.
#pragma once
#include "sequence/scale/band.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// The adjoint is kept times a power of two. Its size is looked at every 8 absolute steps; where
// eight steps grew so much that sums over them could overflow, they are done again one by one.
template <class T>
class Adjoint {
 public:
  Adjoint(Context<T>& context, const Layer& layer, int index)
      : context_(context), layer_(layer), index_(index), band_(context.division.threads()) {}

  void lay_out(Layout& layout);
  // Zero, or the cotangent of the final state that the call gives.
  void start(Worker& m);
  // Steps of a chunk, for the gradient `arriving` at the layer's outputs. view.dz gets the adjoints
  // of the pre-activations, at exponents that `exponents` gets by step.
  void walk(Worker& m, LayerView<T> view, int64_t n, const Gradient<T>& arriving,
            int32_t* exponents);
  // What is left before step 0 goes to the caller's array; thread 0 only.
  void write_dstate(const Worker& m);
  void follow(int me) { band_.follow(me); }

  int32_t exponent(int me) const { return band_.exponent(me); }
  // Terms of the gradient of a learned skip parameter [rows][Hp] of the chunk; null if there is
  // none.
  const T* skip_terms() const { return skip_terms_; }
  // Pointers of a view that belong to the adjoint.
  void complete(LayerView<T>& view) const;

 private:
  static constexpr int64_t UB = unit_block<T>;
  int64_t row() const { return context_.timeline.batch * layer_.Hp; }
  template <class F>
  void each_share(const Worker& m, F f) const {
    context_.division.each_share(index_, layer_.nb, m.me, m.size, f);
  }
  double walk_steps(Worker& m, LayerView<T> view, int64_t i0, int64_t i1, const int32_t* arriving,
                    int32_t* exponents);
  int64_t spread(const Worker& m, const int32_t* arriving, int64_t i0, int64_t i1) const;
  double largest(const Worker& m, int64_t t0, int64_t t1) const;
  double largest_in_ring(const Worker& m) const;
  void scale(const Worker& m, T factor) const;
  void copy_steps(const Worker& m, int64_t t0, int64_t t1, bool back) const;

  Context<T>& context_;
  const Layer& layer_;
  const int index_;
  ScaleBand<T> band_;
  // The adjoint [states][B][Hp] and, with a skip connection, the ring [lead][B][Hp] of adjoints on
  // their way to step t - lag, in slot t mod lag; of both, copies of what eight steps change.
  T *d_ = nullptr, *d_copy_ = nullptr, *ring_ = nullptr, *ring_copy_ = nullptr;
  T* skip_terms_ = nullptr;
  PerThread<T*> factors_;  // [chunk] powers of two that bring what arrives to the adjoint's scale
};

// The adjoint that is left after step 0, of one layer, to its place in a flat state: of h in d, of
// the outputs before it in the ring (null without a skip connection).
template <class T>
void gather_dstate(const Context<T>& context, const Layer& layer, const T* d, const T* ring,
                   T* state);

// K cotangents of the final state as rows b * K + k, from the caller's flat states:
// that of the last output to d, those of outputs before it to the ring.
template <class T>
void load_final_cotangents(const Context<T>& context, const Layer& layer, T* d, T* ring);

}  // namespace gradcore
