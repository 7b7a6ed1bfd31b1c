// Inputs that do not change with time: a linear map of each sequence's own is added to its rows.
#pragma once
#include <optional>

#include "sequence/scale/gradient_sums.h"
#include "sequence/scale/static_gradient.h"
#include "sequence/stages/stage.h"

namespace gradcore {

// The map is computed once per call. On the way back the rows' gradient is summed over the steps
// of each sequence, from which the gradients of weight and static inputs follow at the end.
template <class T>
class StaticInput : public Stage<T> {
 public:
  // joins: gradients add to those that the other direction has left.
  StaticInput(Context<T>& context, Stage<T>* below, const Transform& transform, bool joins);

  const T* rows(int64_t) const override { return rows_; }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk, bool) override;
  void refresh(Worker& m, const Chunk& chunk) override;
  bool wants_gradient() const override;
  void start_backward(Worker& m) override;
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  void end_backward(const Worker& m) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void add_static(StaticGradient& total) const override;
  void follow(int me) override;

  // For tangents and cotangents.
  int64_t statics() const { return transform_.spec.inputs; }
  const T* weight() const { return this->context_.params() + transform_.weight; }
  const T* given() const { return static_cast<const T*>(this->context_.call.statics.values); }
  int64_t weight_place() const { return transform_.weight; }
  int64_t sums_size() const { return this->batch() * this->stride(); }
  // weight [O,S] times the statics of a sequence joins a row; pads are left.
  void project(T* to, const T* weight, const T* statics) const;
  // Sums of rows d of steps [i0,i1) of a chunk over time join `part`: this thread's sequences.
  void add_sums(const Worker& m, int64_t i0, int64_t i1, const T* d, T* part) const;
  // Sums [B][stride] of this chain's gradient, and products of such sums with statics [B,S], which
  // join the elements [O,S] of a weight's gradient.
  const T* sums() const { return sums_->sums(); }
  void add_products(const T* sums, const T* statics, double* to) const;
  void put(const double* from, T* grads, int64_t shift) const;

 private:
  const Transform& transform_;
  const bool joins_;
  T* projected_ = nullptr;      // [B][stride]
  T* rows_ = nullptr;           // [rows][stride] of the chunk
  double* d_weight_ = nullptr;  // [O,S] at the exponent of the sums
  std::optional<GradientSums<T>> sums_;
};

}  // namespace gradcore
