// What the tests of the optimizer share: options, buffers, and torch.optim's formulas.
#pragma once
#include <gradcore/gradcore.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace optim_case {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Round the lanes of every level, and the borders of a chunk.
inline const std::vector<int64_t> sizes = {1,  3,  7,  8,    9,    15,   16,
                                           17, 31, 33, 4095, 4096, 4097, 20000};

struct Recipe {
  const char* name;
  int kind;
  double momentum, dampening, weight_decay, max_norm;
  int nesterov = 0, centered = 0;
  double lr_decay = 0;
};
inline const std::vector<Recipe> recipes = {
    {"sgd", GC_SGD, 0, 0, 0, infinity},
    {"sgd decay", GC_SGD, 0, 0, 0.1, 0.5},
    {"momentum", GC_SGD, 0.9, 0.2, 0.01, infinity},
    {"nesterov", GC_SGD, 0.9, 0, 0, 0.5, 1},
    {"adam", GC_ADAM, 0, 0, 0.01, infinity},
    {"adamw", GC_ADAMW, 0, 0, 0.1, 0.5},
    {"rmsprop", GC_RMSPROP, 0, 0, 0, 0.5},
    {"rmsprop momentum", GC_RMSPROP, 0.8, 0, 0.01, infinity},
    {"rmsprop centered", GC_RMSPROP, 0, 0, 0.01, infinity, 0, 1},
    {"rmsprop both", GC_RMSPROP, 0.8, 0, 0, infinity, 0, 1},
    {"adagrad", GC_ADAGRAD, 0, 0, 0.01, infinity, 0, 0, 0.1},
    {"lion", GC_LION, 0, 0, 0.1, 0.5},
};

// p and g as in gc_update; m, v and w are the first moment, the second and the velocity.
template <class T>
struct Buffers {
  std::vector<T> p, g, m, v, w;
  gc_segment segment;

  // Of what a step may write.
  bool operator==(const Buffers& o) const { return p == o.p && m == o.m && v == o.v && w == o.w; }
};

template <class T>
Buffers<T> make_buffers(int64_t n) {
  std::mt19937_64 engine(static_cast<uint64_t>(n));
  std::normal_distribution<double> normal;
  Buffers<T> b;
  for (int64_t i = 0; i < n; i++) {
    b.p.push_back(static_cast<T>(normal(engine)));
    b.g.push_back(static_cast<T>(normal(engine)));
  }
  b.m.assign(static_cast<size_t>(n), T(0));
  b.v.assign(static_cast<size_t>(n), T(0));
  b.w.assign(static_cast<size_t>(n), T(0));
  return b;
}

template <class T>
gc_update make_update(const Recipe& recipe, Buffers<T>& b) {
  gc_update u{};
  u.kind = recipe.kind;
  u.dtype = sizeof(T) == 4 ? GC_FLOAT32 : GC_FLOAT64;
  u.n = static_cast<int64_t>(b.p.size());
  u.params = b.p.data();
  u.grads = b.g.data();
  u.first_moment = b.m.data();
  u.second_moment = b.v.data();
  u.velocity = b.w.data();
  b.segment = {0, u.n, 0, 1, recipe.weight_decay, 1, 0};
  u.segments = &b.segment;
  u.n_segments = 1;
  u.lr = 0.05;
  u.momentum = recipe.momentum;
  u.dampening = recipe.dampening;
  u.nesterov = recipe.nesterov;
  u.centered = recipe.centered;
  u.lr_decay = recipe.lr_decay;
  u.alpha = 0.95;
  u.beta1 = 0.9;
  u.beta2 = 0.99;
  u.eps = 1e-8;
  u.step = 1;
  u.clip = recipe.max_norm < infinity ? GC_CLIP_GLOBAL : GC_CLIP_NONE;
  u.clip_limit = recipe.max_norm;
  u.threads = 1;
  return u;
}

inline double norm_of(const std::vector<double>& x) {
  long double sum = 0;
  for (const double value : x) sum += static_cast<long double>(value) * value;
  return static_cast<double>(std::sqrt(sum));
}

// torch.optim's formulas, element by element in float64; `g` is the gradient after clipping.
inline void reference_step(const Recipe& r, const gc_update& u, Buffers<double>& b,
                           std::vector<double> g) {
  for (size_t i = 0; i < b.p.size(); i++) {
    double &p = b.p[i], &m = b.m[i], &v = b.v[i], &w = b.w[i];
    const double decay = b.segment.weight_decay, lr = u.lr * b.segment.lr_scale;
    const double step = static_cast<double>(u.step);
    if (r.kind == GC_ADAMW || r.kind == GC_LION)
      p *= 1 - lr * decay;
    else
      g[i] += decay * p;
    if (r.kind == GC_SGD) {
      double d = g[i];
      if (r.momentum > 0) {
        w = u.step == 1 ? d : r.momentum * w + (1 - r.dampening) * d;
        d = r.nesterov ? d + r.momentum * w : w;
      }
      p -= lr * d;
    } else if (r.kind == GC_RMSPROP) {
      v = u.alpha * v + (1 - u.alpha) * g[i] * g[i];
      m = u.alpha * m + (1 - u.alpha) * g[i];
      const double variance = r.centered ? v - m * m : v;
      const double d = g[i] / (std::sqrt(variance) + u.eps);
      w = r.momentum * w + d;
      p -= lr * (r.momentum > 0 ? w : d);
    } else if (r.kind == GC_ADAGRAD) {
      v += g[i] * g[i];
      p -= lr / (1 + (step - 1) * u.lr_decay) * g[i] / (std::sqrt(v) + u.eps);
    } else if (r.kind == GC_LION) {
      const double blend = u.beta1 * m + (1 - u.beta1) * g[i];
      p -= lr * (blend > 0 ? 1 : blend < 0 ? -1 : 0);
      m = u.beta2 * m + (1 - u.beta2) * g[i];
    } else {
      m = u.beta1 * m + (1 - u.beta1) * g[i];
      v = u.beta2 * v + (1 - u.beta2) * g[i] * g[i];
      const double m_hat = m / (1 - std::pow(u.beta1, step));
      const double v_hat = v / (1 - std::pow(u.beta2, step));
      p -= lr * m_hat / (std::sqrt(v_hat) + u.eps);
    }
  }
}

template <class F>
void at_every_level(F body) {
  for (int level = 0; level <= GC_ISA_V4; level++) {
    if (!(gc_isa_available() >> level & 1)) continue;
    CHECK_EQUAL(gc_force_isa(level), GC_OK);
    body();
  }
  gc_force_isa(-1);
}

}  // namespace optim_case
