// A dense layer: rows times a matrix, plus a bias. The head of a net is the last one, and the
// product of a convolution is one whose rows are windows of taps.
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/stages/dense_map.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// There is no tape: rows of a chunk are made again when backward reaches it.
template <class T>
class Dense : public Stage<T> {
 public:
  // joins: gradients add to those that the other direction has left. head: the loss takes its rows
  // and may write to them.
  Dense(Context<T>& context, Stage<T>* below, const Transform& transform, bool joins, bool head);

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override { return sums_ || this->below_->wants_gradient(); }
  void start_backward(Worker& m) override;
  // Its own rows are not read.
  void prepare_backward(Worker& m, const Chunk& chunk) override { this->below_->refresh(m, chunk); }
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents and cotangents. Weight and bias of a flat buffer, brought into the order of
  // Kernels::dense, by DenseSpan: this thread's outputs. transposed: null if not wanted.
  void pack_parameters(const Worker& m, const T* params, T* weight, T* bias, T* transposed) const;
  // out = rows [r0,r1) of `in` times a weight, plus a bias (null: 0); d_in = rows of d times a
  // transposed weight.
  void product(T* out, const T* weight, const T* bias, const T* in, const Slice& rows) const;
  void transposed_product(T* d_in, const T* transposed, const T* d, const Slice& rows) const;
  const T* weight() const { return weight_; }
  const T* transposed() const { return transposed_; }
  bool is_head() const { return head_; }
  bool wants_transposed() const;
  // Sums over rows [r0,r1) of a chunk of products of the layer's input x with gradients d of its
  // outputs, and of d alone (bias), into `part`, of sums_size() elements.
  void add_products(const Worker& m, const Slice& rows, const T* x, const T* d, T* part) const;
  void add_bias(const Worker& m, const Slice& rows, const T* d, T* part) const;
  int64_t weights() const { return forward_.weights(); }
  int64_t transposed_weights() const { return back_.weights(); }
  int64_t sums_size() const { return at_bias() + this->stride(); }
  void unpack_sums(const T* sums, T* grads, int64_t shift) const;

 private:
  using Stage<T>::UB;
  bool has_bias(int64_t o) const { return transform_.bias >= 0 && o < transform_.biased; }
  int64_t at_bias() const { return forward_.sums(); }
  // Where the weight of output o and element u of a row lies in the parameters of the layer; -1:
  // they belong to different groups.
  int64_t place(int64_t o, int64_t u) const;
  void products(const DenseMap& map, T* out, int64_t out_stride, const T* weight, const T* bias,
                const T* in, int64_t in_stride, const Slice& rows) const;
  template <class F>
  void each_sum(const DenseSpan& span, F f) const;

  const Transform& transform_;
  const bool joins_, head_;
  T *weight_ = nullptr, *transposed_ = nullptr, *bias_ = nullptr;
  T* rows_ = nullptr;  // [rows][stride] of the chunk
  const DenseSide inputs_, outputs_;
  const DenseMap forward_, back_;  // of blocks of outputs, and of blocks of inputs
  // By span, sums of outputs and elements of different groups, which share a block: what arises
  // there is nobody's, and must not decide about exponents.
  std::vector<std::vector<int64_t>> foreign_;
  // The group of each input, and where its weight lies among those of an output.
  struct Place {
    int64_t group, column;
  };
  std::vector<Place> places_;
  std::optional<GradientSums<T>> sums_;
};

}  // namespace gradcore
