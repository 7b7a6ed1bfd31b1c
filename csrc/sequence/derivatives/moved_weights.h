// Tangents of the parameters of a recurrent layer, in the kernels' order.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/recurrent.h"

namespace gradcore {

template <class T>
class MovedWeights {
 public:
  MovedWeights(TangentContext<T>& tangents, const Recurrent<T>& stage);

  void lay_out(Layout& layout);
  void pack(const Worker& m);
  // Those of a learned skip parameter, times a factor.
  void scale_skip(T factor);
  // Whether there are any.
  bool present() const { return bias_h_; }

  // Tangents of the input product of the chunk's rows, times a factor, join x_pre [rows][K][width].
  void add_input(const Chunk& chunk, const Slice& rows, T factor, T* x_pre) const;
  // What tangents of weight_hh and bias_hh make of rows h, to h_pre [rows][K][width].
  void recurrent(const Chunk& chunk, const Slice& rows, const T* h, T factor, T* h_pre) const;
  // With a curvature, K = 1: what the tangent of weight_hh makes of adjoints dz, and what that of
  // weight_ih adds to dx.
  void carry(const Slice& rows, const T* dz, T* carried) const;
  void add_input_gradient(const Slice& rows, const T* dz, T* dx) const;

  const T* skip() const { return skip_; }  // [K][Hp]; null if none moves

 private:
  static constexpr int64_t UB = unit_block<T>;
  int64_t blocks() const { return layer_.nb * layer_.gates; }
  void pack_tangent(int64_t k);
  void pack_recurrent_row(int64_t k, int64_t out, int64_t u);
  void pack_input_row(int64_t k, int64_t out, int64_t u);
  void join(T* to, int64_t k, const Slice& rows, T factor) const;

  TangentContext<T>& tangents_;
  const Recurrent<T>& stage_;
  const Layer& layer_;
  // [K] packed as Kernels::dense takes them; transposed ones with a Hessian only.
  T *w_hh_ = nullptr, *w_ih_ = nullptr, *w_hh_t_ = nullptr, *w_ih_t_ = nullptr;
  T* table_ = nullptr;                       // [K][I][nb*gates*UB] with the bias added
  T *bias_h_ = nullptr, *bias_x_ = nullptr;  // [K][nb*gates*UB]
  T* skip_ = nullptr;
  T* product_ = nullptr;               // room for the product of one tangent
  std::vector<Run> h_runs_, dz_runs_;  // of rows of h; of rows of dz, the recurrent planes
};

}  // namespace gradcore
