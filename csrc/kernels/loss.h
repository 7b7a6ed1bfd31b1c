// Loss functions and their gradients, computed row by row.
#pragma once
#include "kernels/kernel_table.h"
#include "simd/math.h"

namespace gradcore::GRADCORE_ISA {

template <class T>
struct Loss {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;

  static void cross_entropy(T* logits, int64_t stride, int64_t classes, const int64_t* target,
                            const T* weight, double factor, double* loss, int64_t r0,
                            int64_t r1) noexcept {
    for (int64_t r = r0; r < r1; r++) {
      T* row = logits + r * stride;
      loss[r] = 0;
      if (weight[r] == 0) {
        __builtin_memset(row, 0, static_cast<size_t>(stride) * sizeof(T));
        continue;
      }
      // With the largest logit subtracted, every exponential is at most 1 and their sum at least 1,
      // so that neither overflow nor a division by 0 can occur.
      T largest = row[0];
      for (int64_t o = 1; o < classes; o++) largest = row[o] > largest ? row[o] : largest;
      const double picked = static_cast<double>(row[target[r]]) - static_cast<double>(largest);
      double sum = 0;
      for (int64_t o = 0; o < stride; o += L) {
        const V e = exp(load<V>(row + o) - broadcast<V>(largest));
        store<V>(row + o, e);
        for (int64_t l = 0; l < L && o + l < classes; l++) sum += static_cast<double>(e[l]);
      }
      loss[r] = static_cast<double>(weight[r]) * (__builtin_log(sum) - picked);
      const double scale = static_cast<double>(weight[r]) * factor;
      const V s = broadcast<V>(static_cast<T>(scale / sum));
      for (int64_t o = 0; o < stride; o += L) store<V>(row + o, load<V>(row + o) * s);
      // The gradient at the target is p - 1. It is computed as minus the sum of the other classes'
      // probabilities, because p - 1 would cancel where p is near 1.
      double others = 0;
      for (int64_t o = 0; o < classes; o++)
        others += o == target[r] ? 0.0 : static_cast<double>(row[o]);
      row[target[r]] = static_cast<T>(-others);
      for (int64_t o = classes; o < stride; o++) row[o] = 0;
    }
  }

  // Replaces z [n] by the gradient of weight * sum (z - y)^2 * factor and returns weight * sum (z -
  // y)^2.
  static double squared_error(T* z, const T* y, int64_t n, double weight, double factor) noexcept {
    using D = Lanes<double>;
    constexpr int LD = lane_count<double>, wide = 4;  // four sums hide an addition's latency
    using Some = typename LanesOf<T, LD>::type;
    const double slope = 2 * weight * factor;
    D sums[wide] = {};
    int64_t o = 0;
    for (; o + wide * LD <= n; o += wide * LD) GC_UNROLL
    for (int e = 0; e < wide; e++) {
      Some a, b;
      __builtin_memcpy(&a, z + o + e * LD, sizeof a);
      __builtin_memcpy(&b, y + o + e * LD, sizeof b);
      const D difference = __builtin_convertvector(a, D) - __builtin_convertvector(b, D);
      sums[e] = fma(difference, difference, sums[e]);
      const Some slopes = __builtin_convertvector(difference * broadcast<D>(slope), Some);
      __builtin_memcpy(z + o + e * LD, &slopes, sizeof slopes);
    }
    const D all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double sum = 0;
    GC_UNROLL
    for (int l = 0; l < LD; l++) sum += all[l];
    for (; o < n; o++) {
      const double difference = static_cast<double>(z[o]) - static_cast<double>(y[o]);
      sum += difference * difference;
      z[o] = static_cast<T>(slope * difference);
    }
    return weight * sum;
  }
};

}  // namespace gradcore::GRADCORE_ISA
