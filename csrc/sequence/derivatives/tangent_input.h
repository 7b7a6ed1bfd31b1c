// Tangents of what a part reads.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/input.h"

namespace gradcore {

template <class T>
class TangentInput : public Tangent<T> {
 public:
  // transformed: something in front of the first layer reads the rows.
  TangentInput(TangentContext<T>& tangents, Input<T>& input, bool transformed);

  T* rows(int64_t) const override { return rows_; }
  bool moves() const override { return moves_; }
  void lay_out(Layout& layout) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override { forward(m, chunk); }
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void unpack(T* product) const override;

  // The largest exponent of what enters the part in the steps of a chunk, no_exponent if nothing
  // does.
  int32_t source(Worker& m, const Chunk& chunk) const;

 private:
  void take(T* to, const T* from, int64_t n, int32_t exponent, int me) const;
  void take_row(T* to, int64_t t, int64_t b, int64_t k, int me) const;
  bool any_at(int64_t k, int64_t t) const;

  Input<T>& input_;
  const bool moves_;
  T* rows_ = nullptr;       // [rows][K][stride]
  T* embedding_ = nullptr;  // sums of the embedding's product
};

}  // namespace gradcore
