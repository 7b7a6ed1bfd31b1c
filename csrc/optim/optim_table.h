// The optimizer kernels that every instruction-set level fills in.
#pragma once
#include <cstdint>

namespace gradcore {

// What one update does to every element, in the net's dtype. The formulas are those of torch.optim
// with the gradient g replaced by grads * factor[0] * factor[1] (two factors, because
// 2^grads_exponent may need more range than one number has), brought into [-limit, limit].
template <class T>
struct UpdateRule {
  T factor[2];
  T limit;          // infinity: no clipping by value
  T coupled_decay;  // g += coupled_decay * p (all but AdamW and Lion)
  T keep;           // AdamW, Lion: p *= keep first; 1 otherwise
  T lr;             // Adam: lr / (1 - beta1^step); Adagrad: lr / (1 + (step - 1) * lr_decay)
  T eps;

  // SGD and RMSprop with momentum
  T momentum, take;  // SGD: velocity = momentum * velocity + take * g
  bool first;        // SGD: the first step, velocity = g
  bool nesterov;

  // Adam, Lion: both betas. RMSprop: beta1 and beta2 are alpha.
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T root_correction;  // Adam: 1 / sqrt(1 - beta2^step)
};

// One chunk of the buffers; null where the optimizer keeps no such array. Only element alignment is
// needed; the arrays may not overlap.
template <class T>
struct UpdateArrays {
  T* p;         // [n] in/out
  const T* g;   // [n] in
  T* first;     // [n] in/out
  T* second;    // [n] in/out
  T* velocity;  // [n] in/out
};

struct UpdateSums {
  double update;  // sum of squared changes of p, before rounding to p
  double param;   // sum of squares of p before the update
};

struct ValueSums {
  double before;    // sum of x^2
  double after;     // sum of (the clipped x * scale)^2
  int64_t clipped;  // elements that were brought to +-limit
};

// Kernels work on one chunk of n elements, alone in their order of summation: the same bits for any
// number of threads.
template <class T>
struct OptimKernels {
  using Update = UpdateSums (*)(const UpdateRule<T>&, const UpdateArrays<T>&, int64_t n) noexcept;

  // Sum of (x[i] * scale)^2 in float64.
  double (*sum_squares)(const T* x, double scale, int64_t n) noexcept;
  // The same of x and of x * factor[0] * factor[1] brought into [-limit, limit], as the rule has
  // it.
  ValueSums (*value_sums)(const UpdateRule<T>&, const T* x, double scale, int64_t n) noexcept;
  Update sgd, sgd_momentum, adam;
  Update rmsprop[2][2];  // [centered][momentum > 0]
  Update adagrad, lion;
};

struct OptimTable {
  OptimKernels<float> f32;
  OptimKernels<double> f64;
};

// The table of the level in use.
const OptimTable& optim_table() noexcept;

}  // namespace gradcore
