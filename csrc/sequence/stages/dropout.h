// Dropout of the rows that a layer or the head reads; it acts in training only.
#pragma once
#include "sequence/stages/stage.h"

namespace gradcore {

// There is no tape: the mask of a chunk is made again when backward reaches it.
template <class T>
class Dropout : public Stage<T> {
 public:
  Dropout(Context<T>& context, Stage<T>* below, const Transform& transform)
      : Stage<T>(context, below, below->units(), below->stride()), transform_(transform) {}

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return this->below_->wants_gradient(); }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // [rows][stride] factors of the chunk.
  const T* mask() const { return mask_; }

 private:
  const Transform& transform_;
  T *mask_ = nullptr, *rows_ = nullptr;
};

}  // namespace gradcore
