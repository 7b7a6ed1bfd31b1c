// The recurrent weights of a layer in the kernels' order, and the coefficients of its skip
// connection.
#pragma once
#include "sequence/context.h"

namespace gradcore {

// What the recurrent product of gate g's unit u multiplies h of unit k by. weight: weight_hh, or
// its tangent, of which the constant diagonal of an antisymmetric layer is no part.
template <class T>
T recurrent_weight(const Layer& layer, const T* weight, int64_t g, int64_t u, int64_t k,
                   bool tangent) {
  if (!layer.is_dense())
    return layer.head > 0 && u / layer.head == k / layer.head
               ? weight[(g * layer.H + u) * layer.head + k % layer.head]
               : T(0);
  const T own = weight[(g * layer.H + u) * layer.H + k];
  if (!layer.antisymmetric) return own;
  if (u == k) return tangent ? T(0) : static_cast<T>(-layer.spec.diffusion);
  return own - weight[k * layer.H + u];
}

template <class T>
class RecurrentWeights {
 public:
  RecurrentWeights(Context<T>& context, const Layer& layer) : context_(context), layer_(layer) {}

  void lay_out(Layout& layout);
  void pack(const Worker& m);

  // LayerView has their layouts.
  const T* forward() const { return forward_; }
  const T* backward() const { return is_diagonal() ? forward_ : backward_; }
  const T* bias() const { return bias_; }
  const T* skip_coefficients() const { return skip_; }

  // Sums of gradients of weight_hh, in the order of forward(), to `to` times 2^shift.
  void unpack(const T* sums, T* grads, int64_t shift) const;

 private:
  static constexpr int64_t UB = unit_block<T>;
  bool is_diagonal() const { return layer_.spec.recurrent == GC_RECURRENT_DIAGONAL; }
  // Units of the state of which unit block j has packed weights.
  Slice read_by(int64_t j) const;
  void pack_diagonal(int64_t j);
  void pack_block(int64_t j);
  void pack_transposed(int64_t j);
  void pack_skip(int64_t j);

  Context<T>& context_;
  const Layer& layer_;
  T *forward_ = nullptr, *backward_ = nullptr, *bias_ = nullptr, *skip_ = nullptr;
};

}  // namespace gradcore
