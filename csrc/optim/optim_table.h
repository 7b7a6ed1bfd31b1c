// The optimizer kernels that every instruction-set level fills in.
#pragma once
#include <cstdint>

namespace gradcore {

// What one update does to every element, in the net's dtype. The formulas are those of torch.optim,
// with the gradient g = grads * factor[0] * factor[1] clipped to [-limit, limit]. There are two
// factors because 2^grads_exponent may exceed the range of a single number.
template <class T>
struct UpdateRule {
  T factor[2];
  T limit;          // infinity if there is no clipping by value
  T coupled_decay;  // g += coupled_decay * p; 0 for AdamW and Lion
  T keep;           // AdamW, Lion: p *= keep before the step; 1 for the others
  T lr;             // Adam: lr / (1 - beta1^step); Adagrad: lr / (1 + (step - 1) * lr_decay)
  T eps;

  // SGD and RMSprop read the momentum; only SGD reads the other three.
  T momentum, take;  // SGD: velocity = momentum * velocity + take * g
  bool first;        // SGD: true in the first step, where velocity = g
  bool nesterov;

  // The betas of Adam and Lion. For RMSprop beta1 and beta2 are both alpha.
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T root_correction;  // Adam: 1 / sqrt(1 - beta2^step)
};

// One chunk of the buffers. Pointers are null where the optimizer keeps no such array. They need
// only element alignment; the arrays may not overlap.
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
