// The linear head: outputs of the net from the rows of its last layer.
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class Head : public Stage<T> {
 public:
  Head(Context<T>& context, Stage<T>* below);

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return true; }
  void start_backward(Worker& m) override;
  // The outputs themselves are not read.
  void prepare_backward(Worker& m, const Chunk& chunk) override {
    this->below_->prepare_backward(m, chunk);
  }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  int64_t gradient_exponent() const override { return sums_->largest_exponent(); }
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents and cotangents: weights as Kernels::dense takes them, [ob][nb runs][UB][UB], and
  // transposed; rows of the layer's outputs and of outputs of the net as runs.
  const T* weight() const { return weight_; }
  const T* transposed() const { return transposed_; }
  const std::vector<Run>& input_runs() const { return input_runs_; }
  const std::vector<Run>& output_runs() const { return output_runs_; }
  // Sums over a whole chunk's rows of products of the head's input x with gradients d of its
  // outputs, and of d alone (bias), into `part`, of sums_size() elements.
  void add_products(const Worker& m, const Chunk& chunk, const T* x, const T* d, T* part) const;
  void add_bias(const Worker& m, const Chunk& chunk, const T* d, T* part) const;
  int64_t sums_size() const { return at_bias() + this->stride(); }
  void unpack_sums(const T* sums, T* grads, int64_t shift) const;

 private:
  using Stage<T>::UB;
  int64_t at_bias() const { return this->below_->units() * this->stride(); }

  T *weight_ = nullptr, *transposed_ = nullptr, *bias_ = nullptr;
  T* rows_ = nullptr;  // [rows][Op]
  std::vector<Run> input_runs_, output_runs_;
  std::optional<GradientSums<T>> sums_;
};

}  // namespace gradcore
