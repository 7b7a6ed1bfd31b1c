#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>

#include "check.h"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Round the lanes of every level, and the borders of a chunk.
const std::vector<int64_t> sizes = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 4095, 4096, 4097, 20000};

struct Recipe {
  const char* name;
  int kind;
  double momentum, dampening, weight_decay, max_norm;
  int nesterov;
};
const std::vector<Recipe> recipes = {
    {"sgd", GC_SGD, 0, 0, 0, infinity, 0},
    {"sgd decay", GC_SGD, 0, 0, 0.1, 0.5, 0},
    {"momentum", GC_SGD, 0.9, 0.2, 0.01, infinity, 0},
    {"nesterov", GC_SGD, 0.9, 0, 0, 0.5, 1},
    {"adam", GC_ADAM, 0, 0, 0.01, infinity, 0},
    {"adamw", GC_ADAMW, 0, 0, 0.1, 0.5, 0},
};

template <class T>
struct Buffers {
  std::vector<T> p, g, m, v;
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
  u.lr = 0.05;
  u.momentum = recipe.momentum;
  u.dampening = recipe.dampening;
  u.nesterov = recipe.nesterov;
  u.weight_decay = recipe.weight_decay;
  u.beta1 = 0.9;
  u.beta2 = 0.99;
  u.eps = 1e-8;
  u.step = 1;
  u.max_norm = recipe.max_norm;
  u.threads = 1;
  return u;
}

double norm_of(const std::vector<double>& x) {
  long double sum = 0;
  for (const double value : x) sum += static_cast<long double>(value) * value;
  return static_cast<double>(std::sqrt(sum));
}

// torch.optim's formulas, element by element in float64; `g` is the gradient after clipping.
void reference_step(const Recipe& r, const gc_update& u, Buffers<double>& b,
                    std::vector<double> g) {
  for (size_t i = 0; i < b.p.size(); i++) {
    double& p = b.p[i];
    if (r.kind == GC_SGD) {
      double d = g[i] + r.weight_decay * p;
      if (r.momentum > 0) {
        b.m[i] = u.step == 1 ? d : r.momentum * b.m[i] + (1 - r.dampening) * d;
        d = r.nesterov ? d + r.momentum * b.m[i] : b.m[i];
      }
      p -= u.lr * d;
    } else {
      if (r.kind == GC_ADAM) g[i] += r.weight_decay * p;
      if (r.kind == GC_ADAMW) p *= 1 - u.lr * r.weight_decay;
      b.m[i] = u.beta1 * b.m[i] + (1 - u.beta1) * g[i];
      b.v[i] = u.beta2 * b.v[i] + (1 - u.beta2) * g[i] * g[i];
      const double m_hat = b.m[i] / (1 - std::pow(u.beta1, u.step));
      const double v_hat = b.v[i] / (1 - std::pow(u.beta2, u.step));
      p -= u.lr * m_hat / (std::sqrt(v_hat) + u.eps);
    }
  }
}

template <class T>
void compare_with_reference(const Recipe& recipe, int64_t n) {
  Buffers<T> b = make_buffers<T>(n);
  Buffers<double> expected{{b.p.begin(), b.p.end()},
                           {},
                           std::vector<double>(b.m.size()),
                           std::vector<double>(b.v.size())};
  gc_update u = make_update(recipe, b);
  const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-14;  // a few roundings of numbers up to 4
  for (u.step = 1; u.step <= 4; u.step++) {
    const std::vector<double> before = expected.p;
    std::vector<double> g(b.g.begin(), b.g.end());
    const double norm = norm_of(g);
    const double scale = norm > recipe.max_norm ? recipe.max_norm / norm : 1;
    for (double& value : g) value *= scale;
    reference_step(recipe, u, expected, g);
    CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
    CHECK_NEAR(u.grad_norm_log10, std::log10(norm), 1e-13);
    CHECK_NEAR(u.clip_scale, scale, 1e-14);
    CHECK_EQUAL(u.clipped, static_cast<int>(scale != 1));
    CHECK_NEAR(u.param_norm, norm_of(before), tolerance * norm_of(before));
    std::vector<double> change = expected.p;
    for (size_t i = 0; i < change.size(); i++) change[i] -= before[i];
    CHECK_NEAR(u.update_norm, norm_of(change), 20 * tolerance * norm_of(change));
    double worst = 0;
    for (size_t i = 0; i < b.p.size(); i++)
      worst = std::max(worst, std::abs(b.p[i] - expected.p[i]));
    CHECK_NEAR(worst, 0, 4 * tolerance);
    for (T& value : b.g) value = -value / 2;
  }
}

template <class T>
Buffers<T> stepped(const Recipe& recipe, int64_t n, int threads) {
  Buffers<T> b = make_buffers<T>(n);
  gc_update u = make_update(recipe, b);
  u.threads = threads;
  for (u.step = 1; u.step <= 2; u.step++) CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  // What is reported must not depend on the threads either.
  for (const double value : {u.grad_norm_log10, u.clip_scale, u.update_norm, u.param_norm})
    b.v.push_back(static_cast<T>(value));
  return b;
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

const Recipe& plain_sgd = recipes[0];
const Recipe clipped_sgd = {"sgd clipped", GC_SGD, 0, 0, 0, 1.0, 0};

}  // namespace

TEST(steps_agree_with_the_reference) {
  at_every_level([] {
    for (const Recipe& recipe : recipes)
      for (const int64_t n : sizes) {
        compare_with_reference<float>(recipe, n);
        compare_with_reference<double>(recipe, n);
      }
  });
}

TEST(steps_have_the_same_bits_for_any_number_of_threads) {
  for (const Recipe& recipe : recipes) {
    const int64_t n = 50'001;
    const Buffers<float> one = stepped<float>(recipe, n, 1);
    for (const int threads : {2, 3, 0}) {
      const Buffers<float> many = stepped<float>(recipe, n, threads);
      CHECK(many.p == one.p && many.m == one.m && many.v == one.v);
    }
  }
}

TEST(gradient_with_an_exponent_is_clipped_exactly) {
  for (const int64_t exponent : {-20000, -3, 7, 20000}) {
    Buffers<double> plain = make_buffers<double>(100), scaled = plain;
    gc_update u = make_update(clipped_sgd, scaled);
    u.grads_exponent = exponent;
    u.lr = 1;
    CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
    const double norm = norm_of(plain.g);
    CHECK_NEAR(u.grad_norm_log10,
               std::log10(norm) + static_cast<double>(exponent) * std::log10(2.0), 1e-9);
    const bool clipped =
        exponent >
        0;  // the norm of the array is about 10: times 2^-20000 or 2^-3 it is near or below 1
    if (exponent == -3) continue;
    CHECK_EQUAL(u.clipped, static_cast<int>(clipped));
    for (size_t i = 0; i < plain.p.size(); i++) {
      const double effective = clipped ? plain.g[i] / norm : 0;
      CHECK_NEAR(scaled.p[i], plain.p[i] - effective, 1e-15);
    }
  }
}

TEST(exponent_without_a_clip_is_an_error_that_names_the_remedy) {
  Buffers<float> b = make_buffers<float>(10);
  const Buffers<float> before = b;
  gc_update u = make_update(plain_sgd, b);
  u.grads_exponent = 4;
  CHECK_EQUAL(gc_optimizer_step(&u), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "GlobalNorm");
  CHECK(b.p == before.p);
}

TEST(small_true_norm_is_not_clipped_and_keeps_its_exponent) {
  Buffers<float> b = make_buffers<float>(10);
  const Buffers<float> before = b;
  gc_update u = make_update(clipped_sgd, b);
  u.grads_exponent = -10;
  u.lr = 1;
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(u.clipped, 0);
  CHECK_EQUAL(u.clip_scale, 1.0);
  for (size_t i = 0; i < b.p.size(); i++) CHECK_EQUAL(b.p[i], before.p[i] - before.g[i] / 1024);
}

TEST(norms_whose_squares_leave_the_range_are_right) {
  for (const double size : {1e-300, 1e-200, 1e200, 1e305}) {
    Buffers<double> b = make_buffers<double>(100);
    for (double& value : b.g) value *= size;
    double largest = 0;
    for (const double value : b.g) largest = std::max(largest, std::abs(value));
    std::vector<double> scaled = b.g;
    for (double& value : scaled) value /= largest;
    gc_update u = make_update(clipped_sgd, b);
    CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
    CHECK_NEAR(u.grad_norm_log10, std::log10(norm_of(scaled)) + std::log10(largest), 1e-12);
    CHECK_NEAR(u.update_norm, size > 1 ? u.lr : 0,
               1e-15);  // a clipped step of norm 1, or next to nothing
  }
}

TEST(float32_gradient_near_the_end_of_its_range_is_clipped) {
  Buffers<float> b = make_buffers<float>(100);
  for (float& value : b.g) value *= 5e37f;
  gc_update u = make_update(clipped_sgd, b);
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_NEAR(u.update_norm, u.lr, 1e-7);
}

TEST(zero_gradient) {
  Buffers<double> b = make_buffers<double>(33);
  std::fill(b.g.begin(), b.g.end(), 0.0);
  const Buffers<double> before = b;
  gc_update u = make_update(clipped_sgd, b);
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(u.grad_norm_log10, -infinity);
  CHECK_EQUAL(u.clipped, 0);
  CHECK_EQUAL(u.update_norm, 0.0);
  CHECK(b.p == before.p);
}

TEST(non_finite_gradient_changes_nothing_and_is_located) {
  for (const Recipe& recipe : recipes)
    for (const double bad : {infinity, -infinity, std::nan("")})
      for (const int64_t where : {0, 5000, 9999}) {
        Buffers<float> b = make_buffers<float>(10000);
        b.g[static_cast<size_t>(where)] = static_cast<float>(bad);
        b.g[9999] = static_cast<float>(bad);
        const Buffers<float> before = b;
        gc_update u = make_update(recipe, b);
        u.threads = 2;
        CHECK_EQUAL(gc_optimizer_step(&u), GC_NONFINITE);
        CHECK_EQUAL(u.where, where);
        CHECK_CONTAINS(gc_last_error(), std::to_string(where).c_str());
        CHECK(b.p == before.p && b.m == before.m && b.v == before.v);
      }
}

TEST(empty_buffer_is_a_step_of_nothing) {
  Buffers<float> b;
  gc_update u = make_update(clipped_sgd, b);
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(u.update_norm, 0.0);
}

TEST(unaligned_buffers_are_accepted) {
  Buffers<float> b = make_buffers<float>(101), whole = b;
  gc_update u = make_update(recipes[4], b);
  u.n = 100;
  u.params = b.p.data() + 1;
  u.grads = b.g.data() + 1;
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(b.p[0], whole.p[0]);
}

TEST(bad_options_are_refused_by_name) {
  struct Case {
    const char* name;
    void (*spoil)(gc_update&);
  };
  const std::vector<Case> cases = {
      {"kind", [](gc_update& u) { u.kind = 3; }},
      {"dtype", [](gc_update& u) { u.dtype = 9; }},
      {"n must", [](gc_update& u) { u.n = -1; }},
      {"threads", [](gc_update& u) { u.threads = -1; }},
      {"step", [](gc_update& u) { u.step = 0; }},
      {"lr", [](gc_update& u) { u.lr = -1; }},
      {"lr", [](gc_update& u) { u.lr = infinity; }},
      {"weight_decay", [](gc_update& u) { u.weight_decay = -1; }},
      {"max_norm", [](gc_update& u) { u.max_norm = 0; }},
      {"max_norm", [](gc_update& u) { u.max_norm = std::nan(""); }},
      {"momentum", [](gc_update& u) { u.momentum = -0.1; }},
      {"dampening", [](gc_update& u) { u.dampening = infinity; }},
      {"nesterov", [](gc_update& u) { u.nesterov = 1; }},
      {"beta1", [](gc_update& u) { u.kind = GC_ADAM, u.beta1 = 1; }},
      {"beta2", [](gc_update& u) { u.kind = GC_ADAMW, u.beta2 = -0.1; }},
      {"eps", [](gc_update& u) { u.kind = GC_ADAM, u.eps = -1; }},
      {"null", [](gc_update& u) { u.params = nullptr; }},
      {"null", [](gc_update& u) { u.grads = nullptr; }},
      {"null", [](gc_update& u) { u.kind = GC_ADAM, u.second_moment = nullptr; }},
  };
  for (const Case& one : cases) {
    Buffers<float> b = make_buffers<float>(8);
    const Buffers<float> before = b;
    gc_update u = make_update(plain_sgd, b);
    one.spoil(u);
    CHECK_EQUAL(gc_optimizer_step(&u), GC_INVALID);
    CHECK_CONTAINS(gc_last_error(), one.name);
    CHECK(b.p == before.p);
  }
  CHECK_EQUAL(gc_optimizer_step(nullptr), GC_INVALID);
}
