// Tangents of LayerNorm and of its gradients, one row at a time. With n the normalised row, s the
// inverse standard deviation and x' the tangent of the row:
//   n' = s (x' - mean(x') - n mean(n x')),  s' = -s^2 mean(n x')
#pragma once
#include "kernels/norm.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct TangentNorm {
  using N = Norm<T>;
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;

  static GC_INLINE V load_or_zero(const T* p, int64_t i) { return p ? load<V>(p + i) : V{}; }
  static GC_INLINE V unit(const T* in, const T* stats, int64_t i) {
    return (load<V>(in + i) - broadcast<V>(stats[0])) * broadcast<V>(stats[1]);
  }
  static GC_INLINE V t_unit(const T* t_in, const T* in, const T* stats, const T* t_stats,
                            int64_t i) {
    return broadcast<V>(stats[1]) * fma(-unit(in, stats, i), broadcast<V>(t_stats[1]),
                                        load<V>(t_in + i) - broadcast<V>(t_stats[0]));
  }

  static void norm_tangent(T* out, T* t_stats, const T* t_in, const T* in, const T* stats,
                           int64_t stride, int64_t units, const T* weight, const T* t_weight,
                           const T* t_bias) noexcept {
    const T share = T(1) / static_cast<T>(units);
    t_stats[0] = N::row_sum(stride, [&](int64_t i) GC_LAMBDA { return load<V>(t_in + i); }) * share;
    t_stats[1] =
        N::row_sum(stride,
                   [&](int64_t i) GC_LAMBDA { return load<V>(t_in + i) * unit(in, stats, i); }) *
        share;
    for (int64_t i = 0; i < stride; i += L) {
      // The padding of the weights is 0, so the padding of the result is 0 too.
      const V moved =
          fma(t_unit(t_in, in, stats, t_stats, i), load<V>(weight + i), load_or_zero(t_bias, i));
      store<V>(out + i, fma(unit(in, stats, i), load_or_zero(t_weight, i), moved));
    }
  }

  // Differentiates dx = s (g - mean(g) - n mean(g n)), where g = d * weight.
  static void norm_backward_tangent(T* out, const T* t_d, const T* d, const T* dx, const T* t_in,
                                    const T* in, const T* stats, const T* t_stats, int64_t stride,
                                    int64_t units, const T* weight, const T* t_weight) noexcept {
    const T share = T(1) / static_cast<T>(units);
    auto g = [&](int64_t i) GC_LAMBDA { return load<V>(d + i) * load<V>(weight + i); };
    auto t_g = [&](int64_t i) GC_LAMBDA {
      return fma(load<V>(t_d + i), load<V>(weight + i), load<V>(d + i) * load_or_zero(t_weight, i));
    };
    auto n = [&](int64_t i) GC_LAMBDA { return unit(in, stats, i); };
    auto t_n = [&](int64_t i) GC_LAMBDA { return t_unit(t_in, in, stats, t_stats, i); };
    const V along_n =
        broadcast<V>(N::row_sum(stride, [&](int64_t i) GC_LAMBDA { return g(i) * n(i); }) * share);
    const V t_along_one = broadcast<V>(N::row_sum(stride, t_g) * share);
    const V t_along_n = broadcast<V>(
        N::row_sum(stride, [&](int64_t i) GC_LAMBDA { return fma(t_g(i), n(i), g(i) * t_n(i)); }) *
        share);
    const V s = broadcast<V>(stats[1]), t_s_over_s = broadcast<V>(-stats[1] * t_stats[1]);
    for (int64_t i = 0; i < stride; i += L) {
      const V rest = fma(-n(i), t_along_n, fma(-t_n(i), along_n, t_g(i) - t_along_one));
      store<V>(out + i, N::inside(fma(t_s_over_s, load<V>(dx + i), s * rest), i, units));
    }
  }

  static void norm_gradient_tangent(T* acc_weight, T* acc_bias, const T* t_d, const T* d,
                                    const T* t_in, const T* in, const T* stats, const T* t_stats,
                                    int64_t stride, int64_t rows, int64_t i0, int64_t i1) noexcept {
    for (int64_t i = i0; i < i1; i += L) {
      V of_weight = load_or_zero(acc_weight, i), of_bias = load_or_zero(acc_bias, i);
      for (int64_t r = rows - 1; r >= 0; r--) {
        const int64_t at = r * stride;
        const V moved = load<V>(t_d + at + i);
        of_weight = fma(moved, unit(in + at, stats + 2 * r, i), of_weight);
        of_weight = fma(load<V>(d + at + i),
                        t_unit(t_in + at, in + at, stats + 2 * r, t_stats + 2 * r, i), of_weight);
        of_bias = of_bias + moved;
      }
      if (acc_weight) store<V>(acc_weight + i, of_weight);
      if (acc_bias) store<V>(acc_bias + i, of_bias);
    }
  }
};

}  // namespace gradcore::GRADCORE_ISA
