// Elementary functions and cells at every level that this CPU has.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "check.h"
#include "kernels/kernel_table.h"
#include "probe.h"

#define DECLARE(level, value) \
  namespace gradcore::level { \
  extern const Probe probe;   \
  }
GRADCORE_EACH_ISA(DECLARE)
#undef DECLARE

namespace gradcore {

template <class F>
static void for_each_level(F f) {
#define CALL(level, value) \
  if (gc_isa_available() >> value & 1) f(level::probe);
  GRADCORE_EACH_ISA(CALL)
#undef CALL
}

// ---- elementary functions: error in units in the last place against long double

template <class T>
static double ulp_error(T got, long double want) {
  int exponent = 0;
  std::frexp(static_cast<T>(want), &exponent);
  const long double ulp =
      std::ldexp(1.0L, std::max(exponent, std::numeric_limits<T>::min_exponent) -
                           std::numeric_limits<T>::digits);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - want) / ulp);
}

template <class T, class Want>
static double worst(void (*f)(const T*, T*, int64_t) noexcept, double limit, Want want) {
  std::vector<T> x, y;
  // Dense around 0, where tanh must keep relative accuracy, and even over the whole range.
  for (int i = 0; i < 20000; i++) {
    x.push_back(static_cast<T>(limit * (2.0 * i / 19999 - 1)));
    x.push_back(static_cast<T>((i & 1 ? 1 : -1) * std::pow(10.0, -8.0 * i / 19999)));
  }
  while (x.size() % 16) x.push_back(0);
  y.resize(x.size());
  f(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double error = 0;
  for (size_t i = 0; i < x.size(); i++) error = std::max(error, ulp_error(y[i], want(x[i])));
  return error;
}

TEST(elementary_functions_are_accurate_over_their_range) {
  auto exp = [](long double x) { return std::exp(x); };
  auto sigmoid = [](long double x) { return 1 / (1 + std::exp(-x)); };
  auto tanh = [](long double x) { return std::tanh(x); };
  for_each_level([&](const Probe& probe) {
    CHECK(worst<float>(probe.exp_f32, 87, exp) <= 1.5);
    CHECK(worst<double>(probe.exp_f64, 708, exp) <= 2.0);
    CHECK(worst<float>(probe.sigmoid_f32, 87, sigmoid) <= 2.5);
    CHECK(worst<double>(probe.sigmoid_f64, 708, sigmoid) <= 2.5);
    CHECK(worst<float>(probe.tanh_f32, 30, tanh) <= 2.5);
    CHECK(worst<double>(probe.tanh_f64, 30, tanh) <= 2.5);
  });
}

TEST(logarithm_and_root_are_accurate_and_keep_their_edges) {
  for_each_level([](const Probe& probe) {
    auto check = [](auto f, auto zero, auto want, double most) {
      using T = decltype(zero);
      std::vector<T> x, y;
      for (int i = 0; i < 8000; i++) {
        x.push_back(static_cast<T>(std::pow(10.0, (i - 4000) * 37.0 / 4000)));
        x.push_back(static_cast<T>(1 + (i - 4000) * 2.5e-5));
      }
      y.resize(x.size());
      f(x.data(), y.data(), static_cast<int64_t>(x.size()));
      for (size_t i = 0; i < x.size(); i++) CHECK(ulp_error(y[i], want(x[i])) <= most);
      const T infinity = std::numeric_limits<T>::infinity();
      T edges[16] = {0, -1, infinity, NAN, 1}, results[16];
      f(edges, results, 16);
      CHECK(std::isnan(results[1]));
      CHECK_EQUAL(results[2], infinity);
      CHECK(std::isnan(results[3]));
      return results[0];
    };
    auto log = [](long double x) { return std::log(x); };
    auto sqrt = [](long double x) { return std::sqrt(x); };
    CHECK_EQUAL(check(probe.log_f32, 0.f, log, 2.0), -INFINITY);
    CHECK_EQUAL(check(probe.log_f64, 0.0, log, 2.0), -std::numeric_limits<double>::infinity());
    CHECK_EQUAL(check(probe.sqrt_f32, 0.f, sqrt, 0.51), 0.f);
    CHECK_EQUAL(check(probe.sqrt_f64, 0.0, sqrt, 0.51), 0.0);
  });
}

TEST(elementary_functions_saturate_and_pass_nan) {
  for_each_level([](const Probe& probe) {
    float x[16] = {0, -0.0f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN}, y[16];
    probe.sigmoid_f32(x, y, 16);
    CHECK_EQUAL(y[0], 0.5f);
    CHECK_EQUAL(y[2], 1.0f);
    CHECK(y[3] >= 0 && y[3] < 2e-38f);
    CHECK_EQUAL(y[4], 1.0f);
    CHECK(std::isnan(y[6]));
    probe.tanh_f32(x, y, 16);
    CHECK_EQUAL(y[0], 0.0f);
    CHECK_EQUAL(y[2], 1.0f);
    CHECK_EQUAL(y[5], -1.0f);
    CHECK(std::isnan(y[6]));
    probe.exp_f32(x, y, 16);
    CHECK_EQUAL(y[0], 1.0f);
    CHECK(std::isnan(y[6]));
  });
}

// ---- cells: forward over duals is the Jacobian, backward its transpose, backward over duals the
// derivative of that

static CellStep moved(CellStep p, double step) {
  for (int i = 0; i < 4; i++) {
    p.x[i] += step * p.dx[i];
    p.h[i] += step * p.dh[i];
  }
  for (int i = 0; i < 2; i++) {
    p.s[i] += step * p.ds[i];
    p.w[i] += step * p.dw[i];
  }
  return p;
}

template <class F>
static void for_each_step(F f) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  for_each_level([&](const Probe& probe) {
    for (int cell = 0; cell < cell_count; cell++)
      for (int nonlinearity = GC_TANH; nonlinearity <= (cell == GC_RNN ? GC_IDENTITY : GC_TANH);
           nonlinearity++)
        for (int sample = 0; sample < 20; sample++) {
          CellStep p{};
          for (double* values : {p.x, p.h, p.dx, p.dh})
            for (int i = 0; i < 4; i++) values[i] = normal(random);
          for (double* values : {p.s, p.w, p.ds, p.dw})
            for (int i = 0; i < 2; i++) values[i] = normal(random);
          f(probe, cell, nonlinearity, p);
        }
  });
}

TEST(a_cell_over_duals_is_its_derivative) {
  constexpr double step = 1e-6, tolerance = 1e-8;  // central differences: step^2 and 1e-16 / step
  for_each_step([&](const Probe& probe, int cell, int nonlinearity, CellStep p) {
    probe.step(cell, nonlinearity, &p);
    CellStep plus = moved(p, step), minus = moved(p, -step);
    probe.step(cell, nonlinearity, &plus);
    probe.step(cell, nonlinearity, &minus);
    auto same = [&](const double* tangent, const double* above, const double* below, int n) {
      for (int i = 0; i < n; i++)
        CHECK_NEAR(tangent[i], (above[i] - below[i]) / (2 * step), tolerance);
    };
    const auto& counts = kernels<double>().cells[cell];
    same(p.ds1, plus.s1, minus.s1, counts.states);
    same(p.dd, plus.d, minus.d, counts.states);
    same(p.dz, plus.z, minus.z, counts.planes);
  });
}

TEST(a_cells_backward_is_the_transpose_of_its_derivative) {
  for_each_step([](const Probe& probe, int cell, int nonlinearity, CellStep p) {
    probe.step(cell, nonlinearity, &p);
    const auto& counts = kernels<double>().cells[cell];
    double forward = 0, backward = 0, size = 0;
    for (int i = 0; i < counts.states; i++) {
      forward += p.ds1[i] * p.w[i];
      backward += p.ds[i] * p.d[i];
      size += std::fabs(p.ds1[i] * p.w[i]);
    }
    for (int g = 0; g < counts.gates; g++) {
      const double terms = p.dh[g] * p.z[g] + p.dx[g] * p.z[counts.input_plane[g]];
      backward += terms;
      size += std::fabs(terms);
    }
    CHECK_NEAR(backward, forward, 1e-14 * size);
  });
}

// Relative to the size of what was computed: the two have other roundings.
static void check_equal_steps(const CellStep& got, const CellStep& want, double tolerance) {
  auto same = [&](const double* a, const double* b, int n) {
    for (int i = 0; i < n; i++) CHECK_NEAR(a[i], b[i], tolerance * (1 + std::fabs(b[i])));
  };
  same(got.s1, want.s1, 2);
  same(got.ds1, want.ds1, 2);
  same(got.z, want.z, 4);
  same(got.dz, want.dz, 4);
  same(got.d, want.d, 2);
  same(got.dd, want.dd, 2);
}

TEST(the_derived_backward_of_a_cell_is_the_one_written_by_hand) {
  for_each_step([](const Probe& probe, int cell, int nonlinearity, CellStep p) {
    CellStep derived = p;
    probe.step(cell, nonlinearity, &p);
    probe.derived_step(cell, nonlinearity, &derived);
    check_equal_steps(derived, p, 1e-14);
  });
}

TEST(a_cell_of_all_functions_is_differentiated) {
  constexpr double step = 1e-6, tolerance = 1e-7;
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for_each_level([&](const Probe& probe) {
    for (int sample = 0; sample < 200; sample++) {
      CellStep p{};
      for (double* values : {p.x, p.h, p.dx, p.dh})
        for (int i = 0; i < 4; i++) values[i] = normal(random);
      for (double* values : {p.s, p.w, p.ds, p.dw})
        for (int i = 0; i < 2; i++) values[i] = normal(random);
      CellStep plus = moved(p, step), minus = moved(p, -step);
      probe.language_step(&p);
      probe.language_step(&plus);
      probe.language_step(&minus);
      double forward = 0, backward = 0, size = 1;
      for (int i = 0; i < 2; i++) {
        CHECK_NEAR(p.ds1[i], (plus.s1[i] - minus.s1[i]) / (2 * step), tolerance * 100);
        CHECK_NEAR(p.dd[i], (plus.d[i] - minus.d[i]) / (2 * step), tolerance * 1000);
        forward += p.ds1[i] * p.w[i];
        backward += p.ds[i] * p.d[i];
        size += std::fabs(p.ds1[i] * p.w[i]);
      }
      constexpr int input_plane[] = {0, 4, 5, 3};
      for (int g = 0; g < 4; g++) {
        const double terms = p.dh[g] * p.z[g] + p.dx[g] * p.z[input_plane[g]];
        backward += terms;
        size += std::fabs(terms);
      }
      CHECK_NEAR(backward, forward, 1e-13 * size);
    }
  });
}

}  // namespace gradcore
