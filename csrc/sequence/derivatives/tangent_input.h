// Tangents of what a part reads.
#pragma once
#include "sequence/derivatives/tangent_source.h"
#include "sequence/stages/input.h"

namespace gradcore {

template <class T>
class TangentInput : public TangentSource<T> {
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

  int32_t source(Worker& m, const Chunk& chunk) const override;

 private:
  Input<T>& input_;
  const bool moves_;
  T* rows_ = nullptr;       // [rows][K][stride]
  T* embedding_ = nullptr;  // sums of the embedding's product
};

}  // namespace gradcore
