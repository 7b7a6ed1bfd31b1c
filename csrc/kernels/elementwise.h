// Elementwise operations, sums and maxima over flat arrays whose length is a multiple of a vector.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Elementwise {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;

  static void column_sum(T* acc, const T* z, int64_t z_stride, int64_t rows, int64_t i0,
                         int64_t i1) noexcept {
    constexpr int wide = 8;  // eight independent sums hide the latency of an addition
    int64_t i = i0;
    for (; i + wide * L <= i1; i += wide * L) {
      V sum[wide];
      GC_UNROLL
      for (int e = 0; e < wide; e++) sum[e] = load<V>(acc + i + e * L);
      for (int64_t r = rows - 1; r >= 0; r--) GC_UNROLL
      for (int e = 0; e < wide; e++) sum[e] = sum[e] + load<V>(z + r * z_stride + i + e * L);
      GC_UNROLL
      for (int e = 0; e < wide; e++) store<V>(acc + i + e * L, sum[e]);
    }
    for (; i < i1; i += L) {
      V sum = load<V>(acc + i);
      for (int64_t r = rows - 1; r >= 0; r--) sum = sum + load<V>(z + r * z_stride + i);
      store<V>(acc + i, sum);
    }
  }

  static void sum_of_products(T* acc, const T* a, int64_t a_stride, const T* z, int64_t z_stride,
                              int32_t gates, int32_t planes, int64_t rows, int32_t j0,
                              int32_t j1) noexcept {
    constexpr int wide = 8, M = unit_block<T> / L;  // independent sums, vectors of a unit block
    const int64_t end = static_cast<int64_t>(j1) * M;
    for (int32_t g = 0; g < gates; g++) {
      // Vector n of the units: its places in acc, and in a row of z.
      auto to = [&](int64_t n) GC_LAMBDA { return (n / M * gates + g) * M * L + n % M * L; };
      auto from = [&](int64_t n) GC_LAMBDA { return (n / M * planes + g) * M * L + n % M * L; };
      auto add = [&]<int N>(int64_t n) GC_LAMBDA {
        V sum[N];
        GC_UNROLL
        for (int e = 0; e < N; e++) sum[e] = load<V>(acc + to(n + e));
        for (int64_t r = rows - 1; r >= 0; r--) GC_UNROLL
        for (int e = 0; e < N; e++)
          sum[e] = fma(load<V>(a + r * a_stride + (n + e) * L),
                       load<V>(z + r * z_stride + from(n + e)), sum[e]);
        GC_UNROLL
        for (int e = 0; e < N; e++) store<V>(acc + to(n + e), sum[e]);
      };
      int64_t n = static_cast<int64_t>(j0) * M;
      for (; n + wide <= end; n += wide) add.template operator()<wide>(n);
      for (; n < end; n++) add.template operator()<1>(n);
    }
  }

  static void add_block(T* total, T* part, int64_t n, T keep, T add) noexcept {
    const V k = broadcast<V>(keep), a = broadcast<V>(add);
    for (int64_t i = 0; i < n; i += L) {
      store<V>(total + i, fma(load<V>(total + i), k, load<V>(part + i) * a));
      store<V>(part + i, V{});
    }
  }

  static void add_scaled(T* out, const T* a, const T* b, int64_t n, T factor) noexcept {
    const V f = broadcast<V>(factor);
    for (int64_t i = 0; i < n; i += L) store<V>(out + i, fma(load<V>(b + i), f, load<V>(a + i)));
  }

  static void scale(T* p, int64_t n, T factor) noexcept {
    const V f = broadcast<V>(factor);
    for (int64_t i = 0; i < n; i += L) store<V>(p + i, load<V>(p + i) * f);
  }

  static void multiply(T* out, const T* a, const T* b, int64_t n) noexcept {
    for (int64_t i = 0; i < n; i += L) store<V>(out + i, load<V>(a + i) * load<V>(b + i));
  }

  static double max_abs(const T* p, int64_t n) noexcept {
    // x * 0 is NaN if x is infinite or NaN, and 0 otherwise. The sum of these products shows
    // whether any element was not finite; the maximum cannot, because the vector instruction may
    // drop a NaN.
    constexpr int wide = 4;  // four independent chains hide the latency of the operations
    V largest[wide] = {}, poison[wide] = {};
    auto look = [&](int64_t i, int e) GC_LAMBDA {
      const V x = load<V>(p + i);
      largest[e] = max(largest[e], abs(x));
      poison[e] = fma(x, V{}, poison[e]);
    };
    int64_t i = 0;
    for (; i + wide * L <= n; i += wide * L) GC_UNROLL
    for (int e = 0; e < wide; e++) look(i + e * L, e);
    for (; i < n; i += L) look(i, 0);
    GC_UNROLL
    for (int e = 1; e < wide; e++) {
      largest[0] = max(largest[0], largest[e]);
      poison[0] = poison[0] + poison[e];
    }
    const V bad = broadcast<V>(static_cast<T>(__builtin_inf()));
    V all = poison[0] == poison[0] ? largest[0] : bad;
    for (int half = L / 2; half > 0; half /= 2) all = max(all, swap_lanes(all, half));
    return static_cast<double>(all[0]);
  }

  static void scatter_add(T* table, int64_t table_stride, const int64_t* tokens,
                          const int32_t* heads, int64_t n_distinct, const int32_t* next, const T* z,
                          int64_t z_stride, T factor, int64_t i0, int64_t i1) noexcept {
    const V f = broadcast<V>(factor);
    for (int64_t n = 0; n < n_distinct; n++)
      for (int64_t i = i0; i < i1; i += L) {
        V sum = V{};
        for (int32_t r = heads[n]; r >= 0; r = next[r]) sum = sum + load<V>(z + r * z_stride + i);
        T* to = table + tokens[n] * table_stride + i;
        store<V>(to, fma(sum, f, load<V>(to)));
      }
  }
};

}  // namespace gradcore::GRADCORE_ISA
