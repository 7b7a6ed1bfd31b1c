// An activation function of every element of the rows below.
#pragma once
#include "sequence/stages/stage.h"

namespace gradcore {

// There is no tape: the slope is taken at the rows below, which are made again.
template <class T>
class Activation : public Stage<T> {
 public:
  Activation(Context<T>& context, Stage<T>* below, const Transform& transform)
      : Stage<T>(context, below, below->units(), below->stride()), transform_(transform) {}

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return this->below_->wants_gradient(); }
  // Its own rows are not read.
  void prepare_backward(Worker& m, const Chunk& chunk) override { this->below_->refresh(m, chunk); }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // gc_activation
  int32_t function() const { return transform_.spec.function; }

 private:
  const Transform& transform_;
  T* rows_ = nullptr;  // [rows][stride] of the chunk
};

}  // namespace gradcore
