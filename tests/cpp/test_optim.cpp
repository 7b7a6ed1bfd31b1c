#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>

#include "optim_case.h"

using namespace optim_case;

namespace {

template <class T>
void compare_with_reference(const Recipe& recipe, int64_t n) {
  Buffers<T> b = make_buffers<T>(n);
  const std::vector<double> zeros(b.p.size());
  gc_update u = make_update(recipe, b);
  Buffers<double> expected{{b.p.begin(), b.p.end()}, {}, zeros, zeros, zeros, b.segment};
  const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-14;  // a few roundings of numbers up to 4
  for (u.step = 1; u.step <= 4; u.step++) {
    const std::vector<double> before = expected.p;
    std::vector<double> g(b.g.begin(), b.g.end());
    const double norm = norm_of(g);
    const double scale = norm > recipe.max_norm ? recipe.max_norm / norm : 1;
    for (double& value : g) value *= scale;
    reference_step(recipe, u, expected, g);
    CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
    CHECK_NEAR(u.total.norm_log10, std::log10(norm), 1e-13);
    CHECK_NEAR(u.clip_scale, scale, 1e-14);
    CHECK_EQUAL(u.total.clipped, static_cast<int64_t>(scale != 1));
    CHECK_NEAR(u.total.param_norm, norm_of(before), tolerance * norm_of(before));
    std::vector<double> change = expected.p;
    for (size_t i = 0; i < change.size(); i++) change[i] -= before[i];
    CHECK_NEAR(u.total.update_norm, norm_of(change), 20 * tolerance * norm_of(change));
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
  for (const double value :
       {u.total.norm_log10, u.clip_scale, u.total.update_norm, u.total.param_norm})
    b.v.push_back(static_cast<T>(value));
  return b;
}

const Recipe& plain_sgd = recipes[0];
const Recipe clipped_sgd = {"sgd clipped", GC_SGD, 0, 0, 0, 1.0};

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
      CHECK(many == one);
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
    CHECK_NEAR(u.total.norm_log10,
               std::log10(norm) + static_cast<double>(exponent) * std::log10(2.0), 1e-9);
    const bool clipped =
        exponent >
        0;  // the norm of the array is about 10: times 2^-20000 or 2^-3 it is near or below 1
    if (exponent == -3) continue;
    CHECK_EQUAL(u.total.clipped, static_cast<int64_t>(clipped));
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
  CHECK_EQUAL(u.total.clipped, 0);
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
    CHECK_NEAR(u.total.norm_log10, std::log10(norm_of(scaled)) + std::log10(largest), 1e-12);
    CHECK_NEAR(u.total.update_norm, size > 1 ? u.lr : 0,
               1e-15);  // a clipped step of norm 1, or next to nothing
  }
}

TEST(float32_gradient_near_the_end_of_its_range_is_clipped) {
  Buffers<float> b = make_buffers<float>(100);
  for (float& value : b.g) value *= 5e37f;
  gc_update u = make_update(clipped_sgd, b);
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_NEAR(u.total.update_norm, u.lr, 1e-7);
}

TEST(zero_gradient) {
  Buffers<double> b = make_buffers<double>(33);
  std::fill(b.g.begin(), b.g.end(), 0.0);
  const Buffers<double> before = b;
  gc_update u = make_update(clipped_sgd, b);
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(u.total.norm_log10, -infinity);
  CHECK_EQUAL(u.total.clipped, 0);
  CHECK_EQUAL(u.total.update_norm, 0.0);
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
        CHECK(b == before);
      }
}

TEST(empty_buffer_is_a_step_of_nothing) {
  Buffers<float> b;
  gc_update u = make_update(clipped_sgd, b);
  u.segments = nullptr;
  u.n_segments = 0;
  CHECK_EQUAL(gc_optimizer_step(&u), GC_OK);
  CHECK_EQUAL(u.total.update_norm, 0.0);
}

TEST(unaligned_buffers_are_accepted) {
  Buffers<float> b = make_buffers<float>(101), whole = b;
  gc_update u = make_update(recipes[4], b);
  u.n = u.segments->length = 100;
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
      {"kind", [](gc_update& u) { u.kind = 6; }},
      {"dtype", [](gc_update& u) { u.dtype = 9; }},
      {"n must", [](gc_update& u) { u.n = -1; }},
      {"threads", [](gc_update& u) { u.threads = -1; }},
      {"step", [](gc_update& u) { u.step = 0; }},
      {"lr", [](gc_update& u) { u.lr = -1; }},
      {"lr", [](gc_update& u) { u.lr = infinity; }},
      {"weight_decay", [](gc_update& u) { u.segments->weight_decay = -1; }},
      {"lr_scale", [](gc_update& u) { u.segments->lr_scale = infinity; }},
      {"ascend", [](gc_update& u) { u.segments->length = 9; }},
      {"ascend", [](gc_update& u) { u.segments->length = 0; }},
      {"ascend", [](gc_update& u) { u.segments->offset = -1; }},
      {"n_segments", [](gc_update& u) { u.n_segments = -1; }},
      {"n_segments", [](gc_update& u) { u.segments = nullptr; }},
      {"n_groups", [](gc_update& u) { u.n_groups = 1; }},
      {"clip must", [](gc_update& u) { u.clip = 5; }},
      {"clip_limit", [](gc_update& u) { u.clip = GC_CLIP_GLOBAL, u.clip_limit = 0; }},
      {"clip_limit", [](gc_update& u) { u.clip = GC_CLIP_SEGMENT, u.clip_limit = std::nan(""); }},
      {"clip_limit", [](gc_update& u) { u.clip = GC_CLIP_VALUE, u.clip_limit = infinity; }},
      {"clip_eps", [](gc_update& u) { u.clip = GC_CLIP_ADAPTIVE, u.clip_limit = 1; }},
      {"unit",
       [](gc_update& u) {
         u.clip = GC_CLIP_ADAPTIVE, u.clip_limit = u.clip_eps = 1, u.segments->unit = 3;
       }},
      {"grads_exponent", [](gc_update& u) { u.grads_exponent = INT64_MIN; }},
      {"clip_limit_exponent", [](gc_update& u) { u.clip_limit_exponent = INT64_MAX; }},
      {"momentum", [](gc_update& u) { u.momentum = -0.1; }},
      {"dampening", [](gc_update& u) { u.dampening = infinity; }},
      {"nesterov", [](gc_update& u) { u.nesterov = 1; }},
      {"beta1", [](gc_update& u) { u.kind = GC_ADAM, u.beta1 = 1; }},
      {"beta2", [](gc_update& u) { u.kind = GC_ADAMW, u.beta2 = -0.1; }},
      {"beta1", [](gc_update& u) { u.kind = GC_LION, u.beta1 = 1.5; }},
      {"eps", [](gc_update& u) { u.kind = GC_ADAM, u.eps = -1; }},
      {"alpha", [](gc_update& u) { u.kind = GC_RMSPROP, u.alpha = 1; }},
      {"lr_decay", [](gc_update& u) { u.kind = GC_ADAGRAD, u.lr_decay = -1; }},
      {"null", [](gc_update& u) { u.params = nullptr; }},
      {"null", [](gc_update& u) { u.grads = nullptr; }},
      {"null", [](gc_update& u) { u.kind = GC_ADAM, u.second_moment = nullptr; }},
      {"null", [](gc_update& u) { u.kind = GC_RMSPROP, u.second_moment = nullptr; }},
      {"null", [](gc_update& u) { u.kind = GC_LION, u.first_moment = nullptr; }},
      {"null", [](gc_update& u) { u.momentum = 0.9, u.velocity = nullptr; }},
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
