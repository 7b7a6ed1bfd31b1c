// Tangents of a recurrent layer, and the tangent of its backward pass: forward over reverse
// (Pearlmutter 1994; Griewank and Walther 2008, section 5.2).
#pragma once
#include "sequence/derivatives/moved_weights.h"
#include "sequence/derivatives/tangent_states.h"

namespace gradcore {

template <class T>
class TangentRecurrent : public Tangent<T> {
 public:
  TangentRecurrent(TangentContext<T>& tangents, Recurrent<T>& stage, Tangent<T>* below);

  TangentStates<T>& states() { return states_; }

  T* rows(int64_t first) const override;
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override { weights_.pack(m); }
  void scale_parameters(T factor) override { weights_.scale_skip(factor); }
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker&, const Chunk&) override {}  // the segment has them
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void end_backward() override;
  void unpack(T* product) const override;

 private:
  using Tangent<T>::UB;
  TangentView<T> view(int64_t first) const;
  Share share(const Worker& m) const;
  int64_t row() const { return this->batch() * stage_.layer().Hp; }
  void products(const Worker& m, const Chunk& chunk);
  void input_gradient(const Slice& rows, const Gradient<T>& d, const T* t_d);
  void add_sums(const Worker& m, const Chunk& chunk);

  Recurrent<T>& stage_;
  MovedWeights<T> weights_;
  TangentStates<T> states_;
  // Of the chunk: tangents of the input product; what moved recurrent weights add to the recurrent
  // product; tangents of h times the mask of recurrent dropout.
  T *x_pre_ = nullptr, *h_pre_ = nullptr, *masked_ = nullptr;
  // With a Hessian: tangents of the tape, the adjoint, the ring, the skip terms, adjoints of the
  // pre-activations, and what moved recurrent weights make of those; sums as in Recurrent.
  T *saved_ = nullptr, *d_ = nullptr, *ring_ = nullptr, *skip_terms_ = nullptr, *dz_ = nullptr,
    *carried_ = nullptr;
  T *part_ = nullptr, *sums_ = nullptr, *table_ = nullptr;
};

}  // namespace gradcore
