// Compiled once per instruction-set level with GRADCORE_ISA naming the level: norm and update over
// flat arrays of any length.
#include "optim/optim_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

namespace {

template <class T>
constexpr int lanes = lane_count<T>;

// Sums squares in float64 whatever T is; a vector of floats is two of doubles, each with its own
// accumulator.
class SquareSum {
 public:
  GC_INLINE void add(Lanes<double> x) { even_ = fma(x, x, even_); }
  GC_INLINE void add(Lanes<float> x) {
    typedef float HalfVector __attribute__((vector_size(sizeof(Lanes<float>) / 2)));
    HalfVector half[2];
    __builtin_memcpy(half, &x, sizeof x);
    const Lanes<double> low = __builtin_convertvector(half[0], Lanes<double>);
    const Lanes<double> high = __builtin_convertvector(half[1], Lanes<double>);
    even_ = fma(low, low, even_);
    odd_ = fma(high, high, odd_);
  }
  GC_INLINE double total() const {
    const Lanes<double> both = even_ + odd_;
    double sum = 0;
    for (int i = 0; i < lanes<double>; i++) sum += both[i];
    return sum;
  }

 private:
  Lanes<double> even_{}, odd_{};
};

// The last, incomplete vector of an array: zeros fill it up, and only the elements that exist are
// written back.
template <class T>
struct Tail {
  T lane[lanes<T>] = {};
  GC_INLINE Tail(const T* from, int64_t n) {
    for (int64_t i = 0; i < n; i++) lane[i] = from[i];
  }
  GC_INLINE void write(T* to, int64_t n) const {
    for (int64_t i = 0; i < n; i++) to[i] = lane[i];
  }
};

template <class T>
struct Update {
  using V = Lanes<T>;
  static constexpr int L = lanes<T>;

  static double sum_squares(const T* x, double scale, int64_t n) noexcept {
    SquareSum sum;
    const V factor = constant<V>(scale);
    int64_t i = 0;
    for (; i + L <= n; i += L) sum.add(load<V>(x + i) * factor);
    if (i < n) {
      const Tail<T> tail(x + i, n - i);
      sum.add(load<V>(tail.lane) * factor);
    }
    return sum.total();
  }

  struct Sums {
    SquareSum update, param;
    GC_INLINE UpdateSums totals() const { return {update.total(), param.total()}; }
  };

  // The effective gradient, weight decay included.
  static GC_INLINE V gradient(const UpdateRule<T>& rule, V g, V p) {
    return g * broadcast<V>(rule.factor[0]) * broadcast<V>(rule.factor[1]) +
           broadcast<V>(rule.coupled_decay) * p;
  }
  static GC_INLINE void change(T* p, V from, V by, Sums& sums) {
    sums.update.add(by);
    sums.param.add(from);
    store<V>(p, from + by);
  }

  static GC_INLINE void sgd_vector(const UpdateRule<T>& rule, T* p, const T* g, Sums& sums) {
    const V param = load<V>(p);
    change(p, param, -(broadcast<V>(rule.lr) * gradient(rule, load<V>(g), param)), sums);
  }
  static GC_INLINE void momentum_vector(const UpdateRule<T>& rule, T* p, const T* g, T* buffer,
                                        Sums& sums) {
    const V param = load<V>(p);
    V grad = gradient(rule, load<V>(g), param);
    const V momentum = broadcast<V>(rule.momentum);
    const V velocity =
        rule.first ? grad : momentum * load<V>(buffer) + broadcast<V>(rule.take) * grad;
    store<V>(buffer, velocity);
    grad = rule.nesterov ? grad + momentum * velocity : velocity;
    change(p, param, -(broadcast<V>(rule.lr) * grad), sums);
  }
  static GC_INLINE void adam_vector(const UpdateRule<T>& rule, T* p, const T* g, T* m, T* v,
                                    Sums& sums) {
    const V param = load<V>(p);
    const V grad = gradient(rule, load<V>(g), param);
    const V m_old = load<V>(m);
    const V m_new = m_old + (grad - m_old) * broadcast<V>(rule.one_minus_beta1);
    const V v_new =
        load<V>(v) * broadcast<V>(rule.beta2) + grad * grad * broadcast<V>(rule.one_minus_beta2);
    store<V>(m, m_new);
    store<V>(v, v_new);
    const V denominator = root(v_new) * broadcast<V>(rule.root_correction) + broadcast<V>(rule.eps);
    // Decay first (AdamW), then the step, as one change so that its norm is that of the whole
    // update.
    const V decay = param * broadcast<V>(rule.keep) - param;
    change(p, param, decay - broadcast<V>(rule.lr) * (m_new / denominator), sums);
  }
  static GC_INLINE V root(V x) {
    V y;
    GC_UNROLL
    for (int i = 0; i < L; i++)
      y[i] = sizeof(T) == 4 ? __builtin_sqrtf(x[i]) : __builtin_sqrt(x[i]);
    return y;
  }

  static UpdateSums sgd(const UpdateRule<T>& rule, T* p, const T* g, int64_t n) noexcept {
    Sums sums;
    int64_t i = 0;
    for (; i + L <= n; i += L) sgd_vector(rule, p + i, g + i, sums);
    if (const int64_t rest = n - i; rest > 0) {
      Tail<T> p_tail(p + i, rest);
      const Tail<T> g_tail(g + i, rest);
      sgd_vector(rule, p_tail.lane, g_tail.lane, sums);
      p_tail.write(p + i, rest);
    }
    return sums.totals();
  }

  static UpdateSums sgd_momentum(const UpdateRule<T>& rule, T* p, const T* g, T* buffer,
                                 int64_t n) noexcept {
    Sums sums;
    int64_t i = 0;
    for (; i + L <= n; i += L) momentum_vector(rule, p + i, g + i, buffer + i, sums);
    if (const int64_t rest = n - i; rest > 0) {
      Tail<T> p_tail(p + i, rest), buffer_tail(buffer + i, rest);
      const Tail<T> g_tail(g + i, rest);
      momentum_vector(rule, p_tail.lane, g_tail.lane, buffer_tail.lane, sums);
      p_tail.write(p + i, rest);
      buffer_tail.write(buffer + i, rest);
    }
    return sums.totals();
  }

  static UpdateSums adam(const UpdateRule<T>& rule, T* p, const T* g, T* m, T* v,
                         int64_t n) noexcept {
    Sums sums;
    int64_t i = 0;
    for (; i + L <= n; i += L) adam_vector(rule, p + i, g + i, m + i, v + i, sums);
    if (const int64_t rest = n - i; rest > 0) {
      Tail<T> p_tail(p + i, rest), m_tail(m + i, rest), v_tail(v + i, rest);
      const Tail<T> g_tail(g + i, rest);
      adam_vector(rule, p_tail.lane, g_tail.lane, m_tail.lane, v_tail.lane, sums);
      p_tail.write(p + i, rest);
      m_tail.write(m + i, rest);
      v_tail.write(v + i, rest);
    }
    return sums.totals();
  }
};

}  // namespace

template <class T>
static constexpr OptimKernels<T> optim_kernels() {
  return {&Update<T>::sum_squares, &Update<T>::sgd, &Update<T>::sgd_momentum, &Update<T>::adam};
}

extern const OptimTable optim_table;
const OptimTable optim_table = {optim_kernels<float>(), optim_kernels<double>()};

}  // namespace gradcore::GRADCORE_ISA
