// LayerNorm over the units of a row (Ba, Kiros, Hinton 2016, eq. 3, 4): y = (x - mean) / sqrt(var +
// eps) * weight + bias, and its gradients.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Norm {
  using V = Lanes<T>;
  using I = typename LaneTraits<V>::Integer;
  static constexpr int L = lane_count<T>;

  // Returns x at the units of the row and 0 at the padding behind them.
  static GC_INLINE V inside(V x, int64_t i, int64_t units) {
    if (i + L <= units) return x;
    I lane{};
    GC_UNROLL
    for (int l = 0; l < L; l++) lane[l] = l;
    using Whole = std::remove_reference_t<decltype(lane[0])>;
    return lane < I{} + static_cast<Whole>(units > i ? units - i : 0) ? x : V{};
  }

  // Sums f(i) over the vectors of a row, in four independent chains; their lanes are then added in
  // ascending order.
  template <class F>
  static GC_INLINE T row_sum(int64_t stride, F f) {
    V sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= stride; i += 4 * L) GC_UNROLL
    for (int e = 0; e < 4; e++) sum[e] = sum[e] + f(i + e * L);
    for (int e = 0; i < stride; i += L, e++) sum[e] = sum[e] + f(i);
    const V all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    T total = 0;
    GC_UNROLL
    for (int l = 0; l < L; l++) total += all[l];
    return total;
  }

  // A second pass computes the variance from the differences to the mean: E[x^2] - E[x]^2 would
  // lose all digits where the mean is large compared with the deviation.
  static void norm_forward(T* out, T* stats, const T* in, int64_t stride, int64_t units,
                           const T* weight, const T* bias, double eps, int64_t r0,
                           int64_t r1) noexcept {
    for (int64_t r = r0; r < r1; r++) {
      const T* x = in + r * stride;
      T* y = out + r * stride;
      const T mean = row_sum(stride, [&](int64_t i) GC_LAMBDA { return load<V>(x + i); }) /
                     static_cast<T>(units);
      const V m = broadcast<V>(mean);
      const T squares = row_sum(stride, [&](int64_t i) GC_LAMBDA {
        const V off = inside(load<V>(x + i) - m, i, units);
        return off * off;
      });
      const T variance = squares / static_cast<T>(units);
      // If the variance overflowed, 1 / sqrt(variance) would be 0 and the normalised row silently
      // 0. NaN makes the overflow visible.
      const T inverse = variance < static_cast<T>(__builtin_inf())
                            ? T(1) / root(variance + static_cast<T>(eps))
                            : static_cast<T>(__builtin_nan(""));
      const V s = broadcast<V>(inverse);
      for (int64_t i = 0; i < stride; i += L)
        store<V>(y + i, fma((load<V>(x + i) - m) * s, load<V>(weight + i), load<V>(bias + i)));
      stats[2 * r] = mean;
      stats[2 * r + 1] = inverse;
    }
  }

  // Computes the gradient of the input, inverse * (g - mean(g) - n * mean(g n)), where g = d *
  // weight and n = (x - mean) * inverse.
  static void norm_backward(T* out, const T* d, const T* in, const T* stats, int64_t stride,
                            int64_t units, const T* weight, int64_t r0, int64_t r1) noexcept {
    for (int64_t r = r0; r < r1; r++) {
      const T *x = in + r * stride, *dy = d + r * stride;
      T* dx = out + r * stride;
      const V m = broadcast<V>(stats[2 * r]), s = broadcast<V>(stats[2 * r + 1]);
      auto g = [&](int64_t i) GC_LAMBDA { return load<V>(dy + i) * load<V>(weight + i); };
      auto n = [&](int64_t i) GC_LAMBDA { return (load<V>(x + i) - m) * s; };
      const T share = T(1) / static_cast<T>(units);
      const V along_one = broadcast<V>(row_sum(stride, g) * share);
      const V along_n =
          broadcast<V>(row_sum(stride, [&](int64_t i) GC_LAMBDA { return g(i) * n(i); }) * share);
      for (int64_t i = 0; i < stride; i += L)
        store<V>(dx + i, inside(s * fma(-n(i), along_n, g(i) - along_one), i, units));
    }
  }

  static void norm_gradient(T* acc_weight, T* acc_bias, const T* d, const T* in, const T* stats,
                            int64_t stride, int64_t rows, int64_t i0, int64_t i1) noexcept {
    for (int64_t i = i0; i < i1; i += L) {
      V of_weight = acc_weight ? load<V>(acc_weight + i) : V{},
        of_bias = acc_bias ? load<V>(acc_bias + i) : V{};
      for (int64_t r = rows - 1; r >= 0; r--) {
        const V dy = load<V>(d + r * stride + i);
        const V n = (load<V>(in + r * stride + i) - broadcast<V>(stats[2 * r])) *
                    broadcast<V>(stats[2 * r + 1]);
        of_weight = fma(dy, n, of_weight);
        of_bias = of_bias + dy;
      }
      if (acc_weight) store<V>(acc_weight + i, of_weight);
      if (acc_bias) store<V>(acc_bias + i, of_bias);
    }
  }

 private:
  static GC_INLINE float root(float x) { return __builtin_sqrtf(x); }
  static GC_INLINE double root(double x) { return __builtin_sqrt(x); }
};

}  // namespace gradcore::GRADCORE_ISA
