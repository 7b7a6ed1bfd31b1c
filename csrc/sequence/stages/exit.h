// The end of a part that is not the net's last one: its outputs go to the array that the next part
// reads, and the gradient that the next part has left there comes back.
#pragma once
#include "sequence/scale/exponents.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Exit : public Stage<T> {
 public:
  Exit(Context<T>& context, Stage<T>* below)
      : Stage<T>(context, below, below->units(), below->stride()) {}

  const T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override { this->share_gradient(layout); }
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker&, const Chunk&) override {}
  bool wants_gradient() const override { return true; }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;

  // This thread's rows of what the next part left in `from`, [T][B][width]: rows [n][B][stride].
  void gather(const Worker& m, const Chunk& chunk, const T* from, T* rows) const;
};

}  // namespace gradcore
