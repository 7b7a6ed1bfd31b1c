// Tangents of windows of what a part reads.
#pragma once
#include "sequence/derivatives/tangent_source.h"
#include "sequence/stages/border.h"

namespace gradcore {

template <class T>
class TangentBorder : public TangentSource<T> {
 public:
  TangentBorder(TangentContext<T>& tangents, Border<T>& border)
      : TangentSource<T>(tangents, border.inputs()), border_(border) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override { forward(m, chunk); }
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  int32_t source(Worker& m, const Chunk& chunk) const override;

 private:
  void fill(T* to, int64_t r, int64_t t, int64_t b, int64_t k, int me);

  Border<T>& border_;
  T* rows_ = nullptr;        // [rows][K][stride]
  T* taken_[max_team] = {};  // by thread: [I] of one tap
};

}  // namespace gradcore
