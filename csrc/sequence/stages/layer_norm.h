// LayerNorm of the rows that a layer or the head reads (Ba, Kiros and Hinton 2016).
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// There is no tape: rows of a chunk are normalised again when backward reaches it.
template <class T>
class LayerNorm : public Stage<T> {
 public:
  // joins: gradients add to those that the other direction has left.
  LayerNorm(Context<T>& context, Stage<T>* below, const Transform& transform, bool joins);

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents and cotangents.
  const Transform& transform() const { return transform_; }
  const T* weight() const { return weight_; }
  const T* stats() const { return stats_; }
  // Where the sums of weight and bias begin among sums_size() elements; -1: it is no parameter.
  int64_t at_weight() const { return transform_.weight < 0 ? -1 : 0; }
  int64_t at_bias() const {
    return transform_.bias < 0 ? -1 : transform_.weight < 0 ? 0 : this->stride();
  }
  int64_t sums_size() const {
    return this->stride() * ((transform_.weight >= 0) + (transform_.bias >= 0));
  }
  void unpack_sums(const T* sums, T* grads, int64_t shift) const;

 private:
  using Stage<T>::UB;
  const Transform& transform_;
  const bool joins_;
  T *weight_ = nullptr, *bias_ = nullptr;  // [stride]
  T* stats_ = nullptr;                     // [rows][2] mean and 1 / deviation
  T* rows_ = nullptr;                      // [rows][stride] of the chunk
  std::optional<GradientSums<T>> sums_;
};

}  // namespace gradcore
