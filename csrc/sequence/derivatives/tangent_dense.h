// The tangent of a dense layer.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/dense.h"

namespace gradcore {

template <class T>
class TangentDense : public Tangent<T> {
 public:
  TangentDense(TangentContext<T>& tangents, Dense<T>& dense, Tangent<T>* below)
      : Tangent<T>(tangents, below), dense_(dense) {}

  T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void unpack(T* product) const override;

 private:
  using Tangent<T>::UB;

  Dense<T>& dense_;
  T* rows_ = nullptr;  // [rows][K][stride]
  // Tangents of weight and bias, [K] packed as the layer's own; the transposed one with a Hessian
  // only.
  T *weight_ = nullptr, *transposed_ = nullptr, *bias_ = nullptr;
  T* product_ = nullptr;  // room for the product of one tangent
  T *part_ = nullptr, *sums_ = nullptr;
};

}  // namespace gradcore
