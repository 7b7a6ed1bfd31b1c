// The optimizer kernels that every instruction-set level fills in.
#pragma once
#include <cstdint>

namespace gradcore {

// What one update does to every element, in the net's dtype. The formulas are those of torch.optim
// with the gradient g replaced by grads * factor[0] * factor[1] (two factors, because
// 2^grads_exponent may need more range than one number has).
template <class T>
struct UpdateRule {
  T factor[2];
  T coupled_decay;  // SGD, Adam: g += coupled_decay * p
  T keep;           // AdamW: p *= keep first; 1 otherwise
  T lr;             // SGD: learning rate; Adam: lr / (1 - beta1^step)

  // SGD with momentum
  T momentum, take;  // buffer = momentum * buffer + take * g
  bool first;        // the first step: buffer = g
  bool nesterov;

  // Adam
  T one_minus_beta1, beta2, one_minus_beta2;
  T root_correction;  // 1 / sqrt(1 - beta2^step)
  T eps;
};

struct UpdateSums {
  double update;  // sum of squared changes of p, before rounding to p
  double param;   // sum of squares of p before the update
};

// Kernels work on one chunk of n elements, alone in their order of summation: the same bits for any
// number of threads. Pointers need only element alignment and may not alias each other.
template <class T>
struct OptimKernels {
  // Sum of (x[i] * scale)^2 in float64.
  double (*sum_squares)(const T* x, double scale, int64_t n) noexcept;
  // p [n] in/out, g [n] in
  UpdateSums (*sgd)(const UpdateRule<T>&, T* p, const T* g, int64_t n) noexcept;
  // p, buffer [n] in/out, g [n] in
  UpdateSums (*sgd_momentum)(const UpdateRule<T>&, T* p, const T* g, T* buffer, int64_t n) noexcept;
  // p, m, v [n] in/out, g [n] in
  UpdateSums (*adam)(const UpdateRule<T>&, T* p, const T* g, T* m, T* v, int64_t n) noexcept;
};

struct OptimTable {
  OptimKernels<float> f32;
  OptimKernels<double> f64;
};

}  // namespace gradcore
