// One optimizer step: norm, check, clip and update in one parallel region.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/errors.h"
#include "base/team.h"
#include "optim/optim_table.h"

namespace gradcore {

#define DECLARE(level, value)          \
  namespace level {                    \
  extern const OptimTable optim_table; \
  }
GRADCORE_EACH_ISA(DECLARE)
#undef DECLARE

namespace {

// Norms are summed in chunks of this many elements, combined in index order: the same bits for any
// number of threads.
constexpr int64_t chunk_elements = 4096;
// Below this, one thread is done before a second has started (a region costs about 2 us, a chunk in
// L2 about 0.5 us).
constexpr int64_t chunks_per_thread = 4;

const OptimTable& table() noexcept {
  const gc_isa isa = current_isa();
#define CHOOSE(level, value) \
  if (isa == value) return level::optim_table;
  GRADCORE_EACH_ISA(CHOOSE)
#undef CHOOSE
  __builtin_unreachable();  // current_isa() is one of the levels compiled in
}

template <class T>
const OptimKernels<T>& optim_kernels() noexcept {
  if constexpr (std::is_same_v<T, float>)
    return table().f32;
  else
    return table().f64;
}

void check_range(const char* name, double value, bool ok, const char* range) {
  if (!ok) fail(GC_INVALID, "%s must be %s; got %g.", name, range, value);
}

void validate(const gc_update& u) {
  if (u.kind != GC_SGD && u.kind != GC_ADAM && u.kind != GC_ADAMW)
    fail(GC_INVALID, "kind must be a gc_optimizer (0, 1 or 2); got %d.", u.kind);
  if (u.dtype != GC_FLOAT32 && u.dtype != GC_FLOAT64)
    fail(GC_INVALID, "dtype must be a gc_dtype (0 or 1); got %d.", u.dtype);
  if (u.n < 0) fail(GC_INVALID, "n must be 0 or more; got %lld.", static_cast<long long>(u.n));
  if (u.threads < 0) fail(GC_INVALID, "threads must be 0 (automatic) or more; got %d.", u.threads);
  if (u.step < 1) fail(GC_INVALID, "step counts from 1; got %lld.", static_cast<long long>(u.step));
  check_range("lr", u.lr, u.lr >= 0 && std::isfinite(u.lr), "finite and not negative");
  check_range("weight_decay", u.weight_decay, u.weight_decay >= 0 && std::isfinite(u.weight_decay),
              "finite and not negative");
  check_range("max_norm", u.max_norm, u.max_norm > 0, "positive (infinity: no clipping)");
  if (u.kind == GC_SGD) {
    check_range("momentum", u.momentum, u.momentum >= 0 && std::isfinite(u.momentum),
                "finite and not negative");
    check_range("dampening", u.dampening, std::isfinite(u.dampening), "finite");
    if (u.nesterov && !(u.momentum > 0 && u.dampening == 0))
      fail(GC_INVALID,
           "nesterov needs momentum > 0 and dampening == 0; got momentum %g and dampening %g.",
           u.momentum, u.dampening);
  } else {
    check_range("beta1", u.beta1, u.beta1 >= 0 && u.beta1 < 1, "in [0, 1)");
    check_range("beta2", u.beta2, u.beta2 >= 0 && u.beta2 < 1, "in [0, 1)");
    check_range("eps", u.eps, u.eps >= 0 && std::isfinite(u.eps), "finite and not negative");
  }
  const bool needs_first = u.kind != GC_SGD || u.momentum > 0;
  if (u.n > 0 && (!u.params || !u.grads || (needs_first && !u.first_moment) ||
                  (u.kind != GC_SGD && !u.second_moment)))
    fail(GC_INVALID, "params, grads and the moments that this optimizer keeps must not be null.");
  if (u.grads_exponent != 0 && std::isinf(u.max_norm))
    fail(GC_INVALID,
         "The gradient is stored times 2^%lld, beyond the range of its numbers, and only a step "
         "with a norm clip can use it. Give the "
         "optimizer clip=gd.clip.GlobalNorm(max_norm).",
         static_cast<long long>(-u.grads_exponent));
}

double power_of_two(int64_t exponent) noexcept {
  return std::ldexp(1.0, static_cast<int>(std::clamp<int64_t>(exponent, -1022, 1023)));
}

// The array's norm is `mantissa` * 2^`exponent`; the true gradient's is 2^grads_exponent times
// that.
struct Norm {
  double mantissa;
  int64_t exponent;
};

// Fills the rule for this norm and says what is reported about clipping.
template <class T>
UpdateRule<T> make_rule(gc_update& u, Norm norm) noexcept {
  UpdateRule<T> rule{};
  const int64_t true_exponent = norm.exponent + u.grads_exponent;
  u.grad_norm_log10 =
      std::log10(norm.mantissa) + static_cast<double>(true_exponent) * 0.30102999566398119521;
  // mantissa * 2^true_exponent > max_norm, without overflow: the side that could leave the range is
  // scaled away from it.
  u.clipped = norm.mantissa > 0 &&
              norm.mantissa > std::ldexp(u.max_norm, static_cast<int>(std::clamp<int64_t>(
                                                         -true_exponent, -4000, 4000)));
  double scale = 1;  // the array times scale * 2^exponent is the effective gradient
  int64_t exponent = u.grads_exponent;
  if (u.clipped) {
    scale = u.max_norm / norm.mantissa;
    exponent = -norm.exponent;
  }
  u.clip_scale = u.clipped ? scale * power_of_two(exponent) : 1;
  // Split so that each factor is a normal number of T; what is beyond the square of T's range is 0
  // or overflows in any case.
  constexpr int64_t range = std::numeric_limits<T>::max_exponent - 4;
  int carried = 0;
  const double fraction = std::frexp(scale, &carried);
  exponent = std::clamp<int64_t>(exponent + carried, -2 * range, 2 * range);
  const int64_t half = std::abs(exponent) <= range ? exponent : exponent / 2;
  rule.factor[0] = static_cast<T>(std::ldexp(fraction, static_cast<int>(half)));
  rule.factor[1] = static_cast<T>(power_of_two(exponent - half));

  rule.coupled_decay = static_cast<T>(u.kind == GC_ADAMW ? 0 : u.weight_decay);
  rule.keep = static_cast<T>(u.kind == GC_ADAMW ? 1 - u.lr * u.weight_decay : 1);
  rule.momentum = static_cast<T>(u.momentum);
  rule.take = static_cast<T>(1 - u.dampening);
  rule.first = u.step == 1;
  rule.nesterov = u.nesterov != 0;
  rule.one_minus_beta1 = static_cast<T>(1 - u.beta1);
  rule.beta2 = static_cast<T>(u.beta2);
  rule.one_minus_beta2 = static_cast<T>(1 - u.beta2);
  const double steps = static_cast<double>(u.step);
  rule.root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(u.beta2, steps)));
  rule.eps = static_cast<T>(u.eps);
  rule.lr = static_cast<T>(u.kind == GC_SGD ? u.lr : u.lr / (1 - std::pow(u.beta1, steps)));
  return rule;
}

template <class T>
class Step {
 public:
  Step(gc_update& update, Carver& memory) noexcept
      : u_(update),
        chunks_(count_chunks(update.n)),
        kernels_(optim_kernels<T>()),
        squares_(memory.take<double>(chunks_)),
        sums_(memory.take<UpdateSums>(chunks_)) {}

  static size_t bytes(int64_t n) noexcept {
    Carver counter;
    counter.take<double>(count_chunks(n));
    counter.take<UpdateSums>(count_chunks(n));
    return counter.used();
  }

  // The whole step, with squares taken of grads * 2^-exponent. False, and nothing changed, if their
  // sum is not finite or below `smallest_sum`.
  bool run(int64_t exponent, double smallest_sum) noexcept {
    exponent_ = exponent;
    smallest_sum_ = smallest_sum;
    const int64_t wanted = u_.threads ? u_.threads : default_threads();
    const int64_t useful = std::max<int64_t>(1, chunks_ / chunks_per_thread);
    run_team(static_cast<int>(std::min(wanted, useful)), *this);
    if (!usable_) return false;
    UpdateSums total{};
    for (int64_t c = 0; c < chunks_; c++) {
      total.update += sums_[c].update;
      total.param += sums_[c].param;
    }
    u_.update_norm = std::sqrt(total.update);
    u_.param_norm = std::sqrt(total.param);
    return true;
  }

  void operator()(Team& team, int me) noexcept {
    const int64_t begin = chunks_ * me / team.size(), end = chunks_ * (me + 1) / team.size();
    const T* const grads = static_cast<const T*>(u_.grads);
    const double scale = power_of_two(-exponent_);
    for (int64_t c = begin; c < end; c++)
      squares_[c] = kernels_.sum_squares(grads + first(c), scale, count(c));
    team.wait(me);
    if (me == 0) prepare();
    team.wait(me);
    if (!usable_) return;
    for (int64_t c = begin; c < end; c++) sums_[c] = update(first(c), count(c));
  }

 private:
  static int64_t count_chunks(int64_t n) noexcept {
    return (n + chunk_elements - 1) / chunk_elements;
  }
  int64_t first(int64_t c) const noexcept { return c * chunk_elements; }
  int64_t count(int64_t c) const noexcept { return std::min(chunk_elements, u_.n - first(c)); }

  void prepare() noexcept {
    double sum = 0;
    for (int64_t c = 0; c < chunks_; c++) sum += squares_[c];
    usable_ = std::isfinite(sum) && sum >= smallest_sum_;
    if (usable_) rule_ = make_rule<T>(u_, {std::sqrt(sum), exponent_});
  }

  UpdateSums update(int64_t offset, int64_t n) const noexcept {
    T* const p = static_cast<T*>(u_.params) + offset;
    const T* const g = static_cast<const T*>(u_.grads) + offset;
    if (u_.kind == GC_SGD && u_.momentum == 0) return kernels_.sgd(rule_, p, g, n);
    T* const first_moment = static_cast<T*>(u_.first_moment) + offset;
    if (u_.kind == GC_SGD) return kernels_.sgd_momentum(rule_, p, g, first_moment, n);
    return kernels_.adam(rule_, p, g, first_moment, static_cast<T*>(u_.second_moment) + offset, n);
  }

  gc_update& u_;
  const int64_t chunks_;
  const OptimKernels<T>& kernels_;
  double* const squares_;   // [chunks] sums of squares of the gradient
  UpdateSums* const sums_;  // [chunks]
  int64_t exponent_ = 0;
  double smallest_sum_ = 0;
  bool usable_ = false;
  UpdateRule<T> rule_{};
};

template <class T>
void run_step(gc_update& u) {
  const Arena arena(Step<T>::bytes(u.n));
  Carver memory(arena.data());
  Step<T> step(u, memory);
  // float64 squares leave the range above 1e154 and lose bits below 1e-154; a sum of 1e-280 has
  // lost none. float32 squares fit.
  if (step.run(0, std::is_same_v<T, double> ? 1e-280 : 0)) return;

  const T* const grads = static_cast<const T*>(u.grads);
  T largest = 0;
  for (int64_t i = 0; i < u.n; i++) {
    if (!std::isfinite(grads[i])) {
      u.where = i;
      fail(GC_NONFINITE,
           "Element %lld of the gradient is %g; nothing was updated. Look for an overflow in the "
           "forward pass or a learning rate that is too "
           "large.",
           static_cast<long long>(i), static_cast<double>(grads[i]));
    }
    largest = std::max(largest, std::abs(grads[i]));
  }
  if (!step.run(largest > 0 ? std::clamp(std::ilogb(largest), -1000, 1000) : 0, 0))
    fail(GC_INTERNAL, "The norm of a finite gradient came out as not finite.");
}

}  // namespace
}  // namespace gradcore

extern "C" gc_status gc_optimizer_step(gc_update* update) {
  return gradcore::guarded([update] {
    if (!update) gradcore::fail(GC_INVALID, "update must not be null.");
    gradcore::validate(*update);
    if (update->dtype == GC_FLOAT32)
      gradcore::run_step<float>(*update);
    else
      gradcore::run_step<double>(*update);
  });
}
