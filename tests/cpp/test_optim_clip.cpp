#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>

#include "optim_case.h"

using namespace optim_case;

namespace {

// Segments of one buffer with gaps that stand for frozen parameters: shorter than a lane,
// straddling lanes and chunks; rows of 1 to 5,000 elements, so that units are shorter and longer
// than a chunk.
const std::vector<gc_segment> layout = {{2, 1, 0, 1, 0, 1, 0},
                                        {3, 33, 1, 0.5, 0.1, 11, 0},
                                        {40, 97 * 70, 0, 1, 0.05, 97, 0},
                                        {7000, 5000 * 2, 1, 2, 0, 5000, 0},
                                        {17000, 4096, 0, 1, 0, 4096, 0},
                                        {21100, 9, 2, 1, 0, 1, 0}};
constexpr int64_t n_elements = 21111;
constexpr int64_t n_groups = 3;

struct Clip {
  const char* name;
  int kind;
  double limit;
};
const std::vector<Clip> clips = {
    {"none", GC_CLIP_NONE, infinity},    {"global", GC_CLIP_GLOBAL, 3},
    {"segment", GC_CLIP_SEGMENT, 60},    {"value", GC_CLIP_VALUE, 1.5},
    {"adaptive", GC_CLIP_ADAPTIVE, 0.9}, {"loose", GC_CLIP_SEGMENT, 1e9}};
constexpr double clip_eps = 0.5;

template <class T>
struct Case {
  Buffers<T> b;
  std::vector<gc_segment> segments = layout;
  std::vector<gc_group_report> groups{static_cast<size_t>(n_groups)};
  gc_update u;

  Case(const Recipe& recipe, const Clip& clip) : b(make_buffers<T>(n_elements)) {
    u = make_update(recipe, b);
    u.segments = segments.data();
    u.n_segments = static_cast<int64_t>(segments.size());
    u.groups = groups.data();
    u.n_groups = n_groups;
    u.clip = clip.kind;
    u.clip_limit = clip.limit;
    u.clip_eps = clip_eps;
  }
  Case(const Case&) = delete;
};

double norm_of_range(const std::vector<double>& x, int64_t begin, int64_t n) {
  return norm_of({x.begin() + begin, x.begin() + begin + n});
}
void scale_range(std::vector<double>& x, int64_t begin, int64_t n, double factor) {
  for (int64_t i = begin; i < begin + n; i++) x[static_cast<size_t>(i)] *= factor;
}

// Clips g as gc_clip says and counts, per segment, what was clipped.
std::vector<int64_t> clip_slowly(const Clip& clip, const std::vector<double>& p,
                                 std::vector<double>& g) {
  std::vector<int64_t> clipped;
  double square = 0;
  for (const gc_segment& s : layout) square += std::pow(norm_of_range(g, s.offset, s.length), 2);
  for (const gc_segment& s : layout) {
    int64_t count = 0;
    if (clip.kind == GC_CLIP_GLOBAL || clip.kind == GC_CLIP_SEGMENT) {
      const double norm =
          clip.kind == GC_CLIP_GLOBAL ? std::sqrt(square) : norm_of_range(g, s.offset, s.length);
      count = norm > clip.limit;
      if (count) scale_range(g, s.offset, s.length, clip.limit / norm);
    } else if (clip.kind == GC_CLIP_VALUE) {
      for (int64_t i = s.offset; i < s.offset + s.length; i++) {
        double& value = g[static_cast<size_t>(i)];
        count += std::abs(value) > clip.limit;
        value = std::clamp(value, -clip.limit, clip.limit);
      }
    } else if (clip.kind == GC_CLIP_ADAPTIVE) {
      for (int64_t i = s.offset; i < s.offset + s.length; i += s.unit) {
        const double most = clip.limit * std::max(norm_of_range(p, i, s.unit), clip_eps);
        const double norm = norm_of_range(g, i, s.unit);
        count += norm > most;
        if (norm > most) scale_range(g, i, s.unit, most / norm);
      }
    }
    clipped.push_back(count);
  }
  return clipped;
}

double norm_of_group(const std::vector<double>& x, int32_t group) {
  double square = 0;
  for (const gc_segment& s : layout)
    if (s.group == group) square += std::pow(norm_of_range(x, s.offset, s.length), 2);
  return std::sqrt(square);
}

// reference_step for each segment, with its own rate and decay.
void step_slowly(const Recipe& recipe, const gc_update& u, Buffers<double>& b,
                 const std::vector<double>& g) {
  for (const gc_segment& s : layout) {
    const auto cut = [&s](const std::vector<double>& x) {
      return std::vector<double>(x.begin() + s.offset, x.begin() + s.offset + s.length);
    };
    Buffers<double> part{cut(b.p), {}, cut(b.m), cut(b.v), cut(b.w), s};
    Recipe own = recipe;
    own.weight_decay = s.weight_decay;
    reference_step(own, u, part, cut(g));
    const auto paste = [&s](const std::vector<double>& from, std::vector<double>& to) {
      std::copy(from.begin(), from.end(), to.begin() + s.offset);
    };
    paste(part.p, b.p), paste(part.m, b.m), paste(part.v, b.v), paste(part.w, b.w);
  }
}

template <class T>
void compare(const Recipe& recipe, const Clip& clip, int64_t exponent) {
  Case<T> c(recipe, clip);
  const std::vector<double> zeros(c.b.p.size());
  Buffers<double> expected{{c.b.p.begin(), c.b.p.end()}, {}, zeros, zeros, zeros, {}};
  std::vector<double> g(c.b.g.begin(), c.b.g.end());
  if (exponent != 0) c.u.grads_exponent = exponent;
  for (T& value : c.b.g) value = static_cast<T>(std::ldexp(value, static_cast<int>(-exponent)));
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;  // some roundings of numbers up to 5
  for (c.u.step = 1; c.u.step <= 3; c.u.step++) {
    const std::vector<double> before = expected.p;
    std::vector<double> clipped = g;
    const std::vector<int64_t> counts = clip_slowly(clip, before, clipped);
    step_slowly(recipe, c.u, expected, clipped);
    CHECK_EQUAL(gc_optimizer_step(&c.u), GC_OK);
    double worst = 0;
    for (size_t i = 0; i < c.b.p.size(); i++)
      worst = std::max(worst, std::abs(c.b.p[i] - expected.p[i]));
    CHECK_NEAR(worst, 0, tolerance);
    std::vector<double> change = expected.p;
    for (size_t i = 0; i < change.size(); i++) change[i] -= before[i];
    for (int32_t k = 0; k < n_groups; k++) {
      const gc_group_report& report = c.groups[static_cast<size_t>(k)];
      CHECK_NEAR(report.norm_log10, std::log10(norm_of_group(g, k)), tolerance);
      CHECK_NEAR(report.clipped_norm_log10, std::log10(norm_of_group(clipped, k)), tolerance);
      CHECK_NEAR(report.param_norm, norm_of_group(before, k), 100 * tolerance);
      CHECK_NEAR(report.update_norm, norm_of_group(change, k), 100 * tolerance);
      int64_t count = 0;
      for (size_t s = 0; s < layout.size(); s++)
        if (layout[s].group == k) count += counts[s];
      if (clip.kind == GC_CLIP_GLOBAL) count = std::min<int64_t>(count, 1);
      CHECK_EQUAL(report.clipped, count);
    }
    for (size_t s = 0; s < layout.size(); s++) CHECK_EQUAL(c.segments[s].clipped, counts[s]);
    for (T& value : c.b.g) value = -value / 2;
    for (double& value : g) value = -value / 2;
  }
}

}  // namespace

TEST(clipped_steps_of_segments_agree_with_the_reference) {
  at_every_level([] {
    for (const Recipe& recipe : recipes)
      for (const Clip& clip : clips) {
        compare<float>(recipe, clip, 0);
        compare<double>(recipe, clip, 0);
      }
  });
}

TEST(clips_act_on_the_true_gradient) {
  for (const Clip& clip : clips) {
    if (clip.kind == GC_CLIP_NONE) continue;
    for (const int exponent : {-90, 90}) {
      compare<float>(recipes[0], clip, exponent);
      compare<double>(recipes[4], clip, exponent * 8);
    }
  }
}

TEST(every_clip_has_the_same_bits_for_any_number_of_threads) {
  for (const Recipe& recipe : recipes)
    for (const Clip& clip : clips) {
      Case<float> one(recipe, clip);
      CHECK_EQUAL(gc_optimizer_step(&one.u), GC_OK);
      for (const int threads : {2, 3, 0}) {
        Case<float> many(recipe, clip);
        many.u.threads = threads;
        CHECK_EQUAL(gc_optimizer_step(&many.u), GC_OK);
        CHECK(many.b == one.b);
        CHECK_EQUAL(many.u.clip_scale, one.u.clip_scale);
        for (size_t k = 0; k < n_groups; k++) {
          CHECK_EQUAL(many.groups[k].norm_log10, one.groups[k].norm_log10);
          CHECK_EQUAL(many.groups[k].clipped_norm_log10, one.groups[k].clipped_norm_log10);
          CHECK_EQUAL(many.groups[k].update_norm, one.groups[k].update_norm);
        }
      }
    }
}

TEST(what_lies_in_no_segment_is_neither_read_nor_written) {
  for (const Recipe& recipe : recipes)
    for (const Clip& clip : clips) {
      Case<float> plain(recipe, clip), spoilt(recipe, clip);
      std::vector<bool> covered(static_cast<size_t>(n_elements));
      for (const gc_segment& s : layout) std::fill_n(covered.begin() + s.offset, s.length, true);
      for (size_t i = 0; i < covered.size(); i++)
        if (!covered[i]) spoilt.b.g[i] = spoilt.b.p[i] = std::nanf("");
      CHECK_EQUAL(gc_optimizer_step(&plain.u), GC_OK);
      CHECK_EQUAL(gc_optimizer_step(&spoilt.u), GC_OK);
      CHECK_EQUAL(spoilt.u.total.norm_log10, plain.u.total.norm_log10);
      const Buffers<float> fresh = make_buffers<float>(n_elements);
      for (size_t i = 0; i < covered.size(); i++) {
        if (covered[i]) {
          CHECK_EQUAL(spoilt.b.p[i], plain.b.p[i]);
        } else {
          CHECK(std::isnan(spoilt.b.p[i]));
          CHECK(plain.b.p[i] == fresh.p[i] && plain.b.m[i] == 0 && plain.b.v[i] == 0 &&
                plain.b.w[i] == 0);
        }
      }
    }
}

TEST(huge_and_tiny_exponents_give_the_right_step_under_every_clip) {
  for (const int64_t exponent : {-3000, 3000})
    for (const Clip& clip : clips) {
      if (clip.kind == GC_CLIP_NONE) continue;
      Case<double> c(recipes[0], clip);
      c.u.grads_exponent = exponent;
      const std::vector<double> before = c.b.p;
      std::vector<double> g = c.b.g;
      // For the reference 2^40 is as good as 2^3000: everything is clipped.
      for (double& value : g) value = std::ldexp(value, exponent > 0 ? 40 : -1074);
      const std::vector<int64_t> counts = clip_slowly(clip, before, g);
      Buffers<double> expected{before, {}, c.b.m, c.b.v, c.b.w, {}};
      step_slowly(recipes[0], c.u, expected, g);
      CHECK_EQUAL(gc_optimizer_step(&c.u), GC_OK);
      double worst = 0;
      for (size_t i = 0; i < before.size(); i++)
        worst = std::max(worst, std::abs(c.b.p[i] - expected.p[i]));
      CHECK_NEAR(worst, 0, 1e-13 * std::max(1.0, clip.limit));
      for (size_t s = 0; s < layout.size(); s++)
        CHECK_EQUAL(c.segments[s].clipped, exponent > 0 ? counts[s] : 0);
      CHECK_NEAR(c.u.total.norm_log10, static_cast<double>(exponent) * std::log10(2.0), 3);
    }
}

// A unit or segment far below the others in size must still be seen at its true norm.
TEST(small_parts_of_a_huge_gradient_are_clipped_too) {
  for (const int kind : {GC_CLIP_SEGMENT, GC_CLIP_ADAPTIVE}) {
    Case<double> c(recipes[0], {"", kind, 0.5});
    for (int64_t i = 3; i < 36; i++) c.b.g[static_cast<size_t>(i)] *= 1e-200;
    c.u.grads_exponent = 3000;
    CHECK_EQUAL(gc_optimizer_step(&c.u), GC_OK);
    for (const gc_segment& s : c.segments)
      CHECK_EQUAL(s.clipped, kind == GC_CLIP_SEGMENT ? 1 : s.length / s.unit);
    for (const double value : c.b.p) CHECK(std::isfinite(value));
  }
}

TEST(a_gradient_that_no_clip_brings_into_range_changes_nothing) {
  for (const int kind : {GC_CLIP_GLOBAL, GC_CLIP_SEGMENT}) {
    Case<float> c(recipes[4], {"", kind, 1.0});
    const Buffers<float> before = c.b;
    c.u.clip_limit_exponent = 200;
    c.u.grads_exponent = 190;
    CHECK_EQUAL(gc_optimizer_step(&c.u), GC_INVALID);
    CHECK_CONTAINS(gc_last_error(), "GlobalNorm");
    CHECK(c.b == before);
    c.u.clip_limit_exponent = 100;
    CHECK_EQUAL(gc_optimizer_step(&c.u), GC_OK);
    CHECK_NEAR(c.u.total.clipped_norm_log10, 100 * std::log10(2.0), 1);
  }
}

TEST(non_finite_gradients_change_nothing_under_every_clip) {
  for (const Clip& clip : clips)
    for (const double bad : {infinity, -infinity, std::nan("")})
      for (const int64_t where : {2, 41, 12001, 21108}) {
        Case<double> c(recipes[4], clip);
        c.b.g[static_cast<size_t>(where)] = bad;
        c.b.g[0] = bad;  // in no segment
        const std::vector<double> p = c.b.p;
        CHECK_EQUAL(gc_optimizer_step(&c.u), GC_NONFINITE);
        CHECK_EQUAL(c.u.where, where);
        CHECK(c.b.p == p);
      }
}

TEST(segments_that_are_wrong_are_refused) {
  Case<float> c(recipes[0], clips[0]);
  c.segments[1].offset = 2;
  CHECK_EQUAL(gc_optimizer_step(&c.u), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "segment 1 has offset 2");
  c.segments = layout;
  c.u.segments = c.segments.data();
  c.segments[5].group = 3;
  CHECK_EQUAL(gc_optimizer_step(&c.u), GC_INVALID);
  CHECK_CONTAINS(gc_last_error(), "group must be in 0..2; that of segment 5 is 3");
}
