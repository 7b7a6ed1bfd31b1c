// Windows of taps: rows made of those of the same and of earlier steps, which a convolution
// multiplies.
#pragma once
#include <optional>

#include "sequence/stages/past_adjoint.h"
#include "sequence/stages/stage.h"
#include "sequence/stages/states.h"
#include "sequence/stages/taps.h"

namespace gradcore {

// The rows that it reads are kept over a segment, with those before it, which belong to the net's
// state. The windows themselves are made again when backward reaches them.
template <class T>
class Window : public Stage<T> {
 public:
  Window(Context<T>& context, Stage<T>* below, const Transform& transform);

  const T* rows(int64_t) const override { return rows_; }
  const Stage<T>* made_from() const override { return nullptr; }
  void lay_out(Layout& layout) override;
  void begin_segment(const gc_op& op) override;
  void end_segment(const gc_op& op) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  void end_backward(const Worker& m) override;
  void follow(int me) override;

  // For tangents and cotangents.
  const Taps& taps() const { return taps_; }
  const StateShape& past() const { return past_; }
  // Windows [.][K][stride] of rows [r0,r1) of a chunk, each of K, from `at`, where the K rows of
  // the chunk's first step lie behind those of the steps before it.
  void gather(const Chunk& chunk, const Slice& rows, int64_t K, const T* at, T* out) const;

 private:
  const Taps taps_;
  const StateShape& past_;
  States<T> states_;
  T* rows_ = nullptr;  // [rows][stride] of the chunk
  std::optional<PastAdjoint<T>> adjoint_;
};

}  // namespace gradcore
