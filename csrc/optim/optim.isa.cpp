// This file is compiled once per instruction-set level, with GRADCORE_ISA set to the level's name.
// It holds the norm and the updates over flat arrays of any length.
#include "optim/optim_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

namespace {

template <class T>
constexpr int lanes = lane_count<T>;

// Sums squares in float64 for either T. A vector of floats becomes two of doubles, each with its
// own accumulator.
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

// Holds the last, incomplete vector of an array in a copy that is padded with zeros. The destructor
// writes back only the elements that exist.
template <class T>
class Tail {
 public:
  GC_INLINE Tail(T* array, int64_t n) : array_(array), n_(array ? n : 0) { read(array, n_); }
  GC_INLINE Tail(const T* array, int64_t n) : array_(nullptr), n_(0) { read(array, n); }
  GC_INLINE ~Tail() {
    for (int64_t i = 0; i < n_; i++) array_[i] = lane_[i];
  }
  Tail(const Tail&) = delete;
  Tail& operator=(const Tail&) = delete;
  GC_INLINE T* lane() { return lane_; }

 private:
  GC_INLINE void read(const T* array, int64_t n) {
    for (int64_t i = 0; i < n; i++) lane_[i] = array[i];
  }
  T* array_;
  int64_t n_;
  T lane_[lanes<T>] = {};
};

struct Sums {
  SquareSum update, param;
  GC_INLINE UpdateSums totals() const { return {update.total(), param.total()}; }
};

// The operations that several optimizers share.
template <class T>
struct Common {
  using V = Lanes<T>;
  static constexpr int L = lanes<T>;

  static GC_INLINE V clipped(const UpdateRule<T>& rule, V g) {
    const V limit = broadcast<V>(rule.limit);
    return max(-limit, min(limit, g * broadcast<V>(rule.factor[0]) * broadcast<V>(rule.factor[1])));
  }
  // Returns the clipped gradient plus coupled weight decay.
  static GC_INLINE V gradient(const UpdateRule<T>& rule, V g, V p) {
    return clipped(rule, g) + broadcast<V>(rule.coupled_decay) * p;
  }
  static GC_INLINE void change(T* p, V from, V by, Sums& sums) {
    sums.update.add(by);
    sums.param.add(from);
    store<V>(p, from + by);
  }
  // Returns the change by decoupled weight decay (AdamW, Lion). It is added to the step before p
  // changes, so that the reported norm is that of the whole update.
  static GC_INLINE V decay(const UpdateRule<T>& rule, V p) {
    return p * broadcast<V>(rule.keep) - p;
  }
  static GC_INLINE V mean_square(const UpdateRule<T>& rule, const T* second, V g) {
    return load<V>(second) * broadcast<V>(rule.beta2) + g * g * broadcast<V>(rule.one_minus_beta2);
  }
  static GC_INLINE V root(V x) {
    V y;
    GC_UNROLL
    for (int i = 0; i < L; i++)
      y[i] = sizeof(T) == 4 ? __builtin_sqrtf(x[i]) : __builtin_sqrt(x[i]);
    return y;
  }
};

template <class T>
struct Sgd : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = false, second = false, velocity = false;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    const V grad = C::gradient(rule, load<V>(at.g), param);
    C::change(at.p, param, -(broadcast<V>(rule.lr) * grad), sums);
  }
};

template <class T>
struct SgdMomentum : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = false, second = false, velocity = true;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    V grad = C::gradient(rule, load<V>(at.g), param);
    const V momentum = broadcast<V>(rule.momentum);
    const V velocity =
        rule.first ? grad : momentum * load<V>(at.velocity) + broadcast<V>(rule.take) * grad;
    store<V>(at.velocity, velocity);
    grad = rule.nesterov ? grad + momentum * velocity : velocity;
    C::change(at.p, param, -(broadcast<V>(rule.lr) * grad), sums);
  }
};

template <class T>
struct Adam : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = true, second = true, velocity = false;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    const V grad = C::gradient(rule, load<V>(at.g), param);
    const V m_old = load<V>(at.first);
    const V m_new = m_old + (grad - m_old) * broadcast<V>(rule.one_minus_beta1);
    const V v_new = C::mean_square(rule, at.second, grad);
    store<V>(at.first, m_new);
    store<V>(at.second, v_new);
    const V denominator =
        C::root(v_new) * broadcast<V>(rule.root_correction) + broadcast<V>(rule.eps);
    C::change(at.p, param, C::decay(rule, param) - broadcast<V>(rule.lr) * (m_new / denominator),
              sums);
  }
};

template <class T, bool centered, bool momentum>
struct RmsProp : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = centered, second = true, velocity = momentum;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    const V grad = C::gradient(rule, load<V>(at.g), param);
    const V square = C::mean_square(rule, at.second, grad);
    store<V>(at.second, square);
    V variance = square;
    if constexpr (centered) {
      const V m_old = load<V>(at.first);
      const V mean = m_old + (grad - m_old) * broadcast<V>(rule.one_minus_beta1);
      store<V>(at.first, mean);
      // Rounding may make the difference negative if a gradient never changes; torch then gets NaN.
      variance = max(V{}, square - mean * mean);
    }
    V step = grad / (C::root(variance) + broadcast<V>(rule.eps));
    if constexpr (momentum) {
      step = load<V>(at.velocity) * broadcast<V>(rule.momentum) + step;
      store<V>(at.velocity, step);
    }
    C::change(at.p, param, -(broadcast<V>(rule.lr) * step), sums);
  }
};

template <class T>
struct Adagrad : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = false, second = true, velocity = false;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    const V grad = C::gradient(rule, load<V>(at.g), param);
    const V sum = load<V>(at.second) + grad * grad;
    store<V>(at.second, sum);
    const V step = grad / (C::root(sum) + broadcast<V>(rule.eps));
    C::change(at.p, param, -(broadcast<V>(rule.lr) * step), sums);
  }
};

template <class T>
struct Lion : Common<T> {
  using C = Common<T>;
  using V = typename C::V;
  static constexpr bool first = true, second = false, velocity = false;
  static GC_INLINE void vector(const UpdateRule<T>& rule, const UpdateArrays<T>& at, Sums& sums) {
    const V param = load<V>(at.p);
    const V grad = C::clipped(rule, load<V>(at.g));
    const V m_old = load<V>(at.first);
    const V blend = m_old * broadcast<V>(rule.beta1) + grad * broadcast<V>(rule.one_minus_beta1);
    store<V>(at.first,
             m_old * broadcast<V>(rule.beta2) + grad * broadcast<V>(rule.one_minus_beta2));
    const V lr = broadcast<V>(rule.lr);
    const V step = blend > V{} ? lr : blend < V{} ? -lr : V{};
    C::change(at.p, param, C::decay(rule, param) - step, sums);
  }
};

// Returns array + i, or null if the optimizer keeps no such array.
template <bool used, class T>
GC_INLINE T* at(T* array, int64_t i) {
  if constexpr (used) return array + i;
  return nullptr;
}

template <class T, class Rule>
UpdateSums update(const UpdateRule<T>& shared_rule, const UpdateArrays<T>& shared_arrays,
                  int64_t n) noexcept {
  constexpr int L = lanes<T>;
  // In local copies, which no pointer aliases, the fields stay in registers across the stores.
  const UpdateRule<T> rule = shared_rule;
  const UpdateArrays<T> a = shared_arrays;
  Sums sums;
  const auto arrays = [&a](int64_t i) GC_LAMBDA -> UpdateArrays<T> {
    return {a.p + i, a.g + i, at<Rule::first>(a.first, i), at<Rule::second>(a.second, i),
            at<Rule::velocity>(a.velocity, i)};
  };
  int64_t i = 0;
  for (; i + L <= n; i += L) Rule::vector(rule, arrays(i), sums);
  if (const int64_t rest = n - i; rest > 0) {
    const UpdateArrays<T> last = arrays(i);
    Tail<T> p(last.p, rest), g(last.g, rest), first(last.first, rest), second(last.second, rest),
        velocity(last.velocity, rest);
    Rule::vector(rule, {p.lane(), g.lane(), first.lane(), second.lane(), velocity.lane()}, sums);
  }
  return sums.totals();
}

template <class T>
double sum_squares(const T* x, double scale, int64_t n) noexcept {
  using V = Lanes<T>;
  constexpr int L = lanes<T>;
  SquareSum sum;
  const V factor = constant<V>(scale);
  int64_t i = 0;
  for (; i + L <= n; i += L) sum.add(load<V>(x + i) * factor);
  if (i < n) {
    Tail<T> tail(x + i, n - i);
    sum.add(load<V>(tail.lane()) * factor);
  }
  return sum.total();
}

template <class T>
struct ValueCount {
  using V = Lanes<T>;
  SquareSum before, after;
  typename LaneTraits<V>::Integer clipped{};

  GC_INLINE void add(const UpdateRule<T>& rule, V x, V scale) {
    const V inside = Common<T>::clipped(rule, x);
    const V whole = x * broadcast<V>(rule.factor[0]) * broadcast<V>(rule.factor[1]);
    before.add(x);
    after.add(inside * scale);
    clipped -= inside != whole;  // a true lane is -1
  }
  GC_INLINE ValueSums totals() const {
    ValueSums sums{before.total(), after.total(), 0};
    for (int i = 0; i < lanes<T>; i++) sums.clipped += clipped[i];
    return sums;
  }
};

template <class T>
ValueSums value_sums(const UpdateRule<T>& rule, const T* x, double scale, int64_t n) noexcept {
  using V = Lanes<T>;
  constexpr int L = lanes<T>;
  ValueCount<T> count;
  const V factor = constant<V>(scale);
  int64_t i = 0;
  for (; i + L <= n; i += L) count.add(rule, load<V>(x + i), factor);
  if (i < n) {
    Tail<T> tail(x + i, n - i);
    count.add(rule, load<V>(tail.lane()), factor);
  }
  return count.totals();
}

}  // namespace

template <class T>
static constexpr OptimKernels<T> optim_kernels() {
  return {&sum_squares<T>,
          &value_sums<T>,
          &update<T, Sgd<T>>,
          &update<T, SgdMomentum<T>>,
          &update<T, Adam<T>>,
          {{&update<T, RmsProp<T, false, false>>, &update<T, RmsProp<T, false, true>>},
           {&update<T, RmsProp<T, true, false>>, &update<T, RmsProp<T, true, true>>}},
          &update<T, Adagrad<T>>,
          &update<T, Lion<T>>};
}

extern const OptimTable optim_table;
const OptimTable optim_table = {optim_kernels<float>(), optim_kernels<double>()};

}  // namespace gradcore::GRADCORE_ISA
