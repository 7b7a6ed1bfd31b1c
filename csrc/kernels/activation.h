// Activation functions of rows. A function is its value and its slope, as templates over the number
// type: jets give the slope's own derivative, so that products with a Hessian need no code here.
#pragma once
#include <gradcore/gradcore.h>

#include "kernels/norm.h"
#include "simd/special.h"

namespace gradcore::GRADCORE_ISA {

struct Relu {
  template <class V>
  static GC_INLINE V value(V x) {
    return relu(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    return where_positive(x, constant<V>(1));
  }
};
struct Tanh {
  template <class V>
  static GC_INLINE V value(V x) {
    return tanh(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    return one_minus_square(tanh(x));
  }
};
// Hendrycks and Gimpel 2016, with the exact distribution.
struct Gelu {
  template <class V>
  static GC_INLINE V value(V x) {
    return x * normal_probability(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    return fma(x, normal_density(x), normal_probability(x));
  }
};
// Elfwing, Uchibe and Doya 2018.
struct Silu {
  template <class V>
  static GC_INLINE V value(V x) {
    return x * sigmoid(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    const V s = sigmoid(x);
    return fma(x * s, one_minus(s), s);
  }
};
struct Sigmoid {
  template <class V>
  static GC_INLINE V value(V x) {
    return sigmoid(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    const V s = sigmoid(x);
    return s * one_minus(s);
  }
};
struct Softplus {
  template <class V>
  static GC_INLINE V value(V x) {
    return softplus(x);
  }
  template <class V>
  static GC_INLINE V slope(V x) {
    return sigmoid(x);
  }
};

template <class T>
struct Activation {
  using V = Lanes<T>;
  static constexpr int L = lane_count<T>;

  // Calls f(function) with the function of this number.
  template <class F>
  static GC_INLINE void with(int32_t function, F f) {
    switch (function) {
      case GC_ACTIVATION_RELU:
        return f(Relu{});
      case GC_ACTIVATION_TANH:
        return f(Tanh{});
      case GC_ACTIVATION_GELU:
        return f(Gelu{});
      case GC_ACTIVATION_SILU:
        return f(Silu{});
      case GC_ACTIVATION_SIGMOID:
        return f(Sigmoid{});
      default:
        return f(Softplus{});
    }
  }

  static void activate(T* out, const T* in, int64_t stride, int64_t units, int32_t function,
                       int64_t r0, int64_t r1) noexcept {
    with(function, [&](auto f) GC_LAMBDA {
      for (int64_t r = r0; r < r1; r++)
        for (int64_t i = 0; i < stride; i += L)
          store<V>(out + r * stride + i,
                   Norm<T>::inside(f.value(load<V>(in + r * stride + i)), i, units));
    });
  }

  static void activation_slope(T* out, const T* d, const T* in, int64_t n,
                               int32_t function) noexcept {
    with(function, [&](auto f) GC_LAMBDA {
      for (int64_t i = 0; i < n; i += L)
        store<V>(out + i, load<V>(d + i) * f.slope(load<V>(in + i)));
    });
  }

  static void activation_curve(T* out, const T* t_d, const T* d, const T* t_in, const T* in,
                               int64_t n, int32_t function) noexcept {
    with(function, [&](auto f) GC_LAMBDA {
      for (int64_t i = 0; i < n; i += L) {
        const Dual<V> slope = f.slope(Dual<V>{load<V>(in + i), {load<V>(t_in + i)}});
        store<V>(out + i, fma(load<V>(t_d + i), slope.value, load<V>(d + i) * slope.tangent[0]));
      }
    });
  }
};

}  // namespace gradcore::GRADCORE_ISA
