// Performs one optimizer step in a single parallel region: computes norms, checks the gradient,
// clips and updates.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include "base/arena.h"
#include "base/dispatch.h"
#include "base/errors.h"
#include "base/layout.h"
#include "base/team.h"
#include "optim/optim_table.h"
#include "optim/scaled_sum.h"

namespace gradcore {

GRADCORE_DISPATCH(OptimTable, optim_table, optim_table)

namespace {

// Norms are summed in chunks of at most this many elements of one segment, and the chunks' sums are
// added in index order, so that the result has the same bits for any number of threads.
constexpr int64_t chunk_elements = 4096;
// With fewer chunks per thread, one thread finishes before a second has started: a parallel region
// costs about 2 us, a chunk in the L2 cache about 0.5 us.
constexpr int64_t chunks_per_thread = 4;

template <class T>
const OptimKernels<T>& optim_kernels() noexcept {
  return of_precision<T>(optim_table());
}

void check_range(const char* name, double value, bool ok, const char* range) {
  if (!ok) fail(GC_INVALID, "%s must be %s; got %g.", name, range, value);
}
void check_not_negative(const char* name, double value) {
  check_range(name, value, value >= 0 && std::isfinite(value), "finite and not negative");
}
void check_beta(const char* name, double value) {
  check_range(name, value, value >= 0 && value < 1, "in [0, 1)");
}

void validate_rule(const gc_update& u) {
  if (u.kind < GC_SGD || u.kind > GC_LION)
    fail(GC_INVALID, "kind must be a gc_optimizer (0 to 5); got %d.", u.kind);
  if (u.step < 1) fail(GC_INVALID, "step counts from 1; got %lld.", static_cast<long long>(u.step));
  check_not_negative("lr", u.lr);
  if (u.kind == GC_SGD || u.kind == GC_RMSPROP) check_not_negative("momentum", u.momentum);
  if (u.kind == GC_SGD) {
    check_range("dampening", u.dampening, std::isfinite(u.dampening), "finite");
    if (u.nesterov && !(u.momentum > 0 && u.dampening == 0))
      fail(GC_INVALID,
           "nesterov needs momentum > 0 and dampening == 0; got momentum %g and dampening %g.",
           u.momentum, u.dampening);
  }
  if (u.kind == GC_ADAM || u.kind == GC_ADAMW || u.kind == GC_LION) {
    check_beta("beta1", u.beta1);
    check_beta("beta2", u.beta2);
  }
  if (u.kind == GC_RMSPROP) check_beta("alpha", u.alpha);
  if (u.kind == GC_ADAGRAD) check_not_negative("lr_decay", u.lr_decay);
  if (u.kind != GC_SGD && u.kind != GC_LION) check_not_negative("eps", u.eps);
}

struct Needs {
  bool first, second, velocity;
};
Needs needs_of(const gc_update& u) noexcept {
  const bool adam = u.kind == GC_ADAM || u.kind == GC_ADAMW;
  return {adam || u.kind == GC_LION || (u.kind == GC_RMSPROP && u.centered),
          adam || u.kind == GC_RMSPROP || u.kind == GC_ADAGRAD,
          (u.kind == GC_SGD || u.kind == GC_RMSPROP) && u.momentum > 0};
}

void check_exponent(const char* name, int64_t exponent) {
  constexpr int64_t most = int64_t{1} << 40;  // keeps sums of a few exponents far from overflow
  if (exponent < -most || exponent > most)
    fail(GC_INVALID, "%s must be within +-2^40; got %lld.", name, static_cast<long long>(exponent));
}

void validate_clip(const gc_update& u) {
  check_exponent("grads_exponent", u.grads_exponent);
  check_exponent("clip_limit_exponent", u.clip_limit_exponent);
  if (u.clip < GC_CLIP_NONE || u.clip > GC_CLIP_ADAPTIVE)
    fail(GC_INVALID, "clip must be a gc_clip (0 to 4); got %d.", u.clip);
  if (u.clip == GC_CLIP_NONE) {
    if (u.grads_exponent != 0)
      fail(GC_INVALID,
           "The gradient is stored times 2^%lld, beyond the range of its numbers, and only a "
           "clipped step can use it. Give the optimizer clip=gd.clip.GlobalNorm(max_norm).",
           static_cast<long long>(-u.grads_exponent));
    return;
  }
  const bool scales = u.clip == GC_CLIP_GLOBAL || u.clip == GC_CLIP_SEGMENT;
  check_range("clip_limit", u.clip_limit,
              u.clip_limit > 0 && (scales || std::isfinite(u.clip_limit)),
              scales ? "positive" : "positive and finite");
  if (u.clip == GC_CLIP_ADAPTIVE)
    check_range("clip_eps", u.clip_eps, u.clip_eps > 0 && std::isfinite(u.clip_eps),
                "positive and finite");
}

void validate_segments(const gc_update& u) {
  if (u.n_segments < 0 || (!u.segments && u.n_segments != 0))
    fail(GC_INVALID, "n_segments must be the number of segments; got %lld.",
         static_cast<long long>(u.n_segments));
  if (u.n_groups < 0 || (u.n_groups > 0 && !u.groups))
    fail(GC_INVALID, "n_groups must be the number of groups; got %lld.",
         static_cast<long long>(u.n_groups));
  int64_t end = 0;
  for (int64_t i = 0; i < u.n_segments; i++) {
    const gc_segment& s = u.segments[i];
    if (s.length < 1 || s.offset < end || s.offset > u.n || s.length > u.n - s.offset)
      fail(GC_INVALID,
           "segments must ascend without overlap within n = %lld; segment %lld has offset %lld and "
           "length %lld.",
           static_cast<long long>(u.n), static_cast<long long>(i), static_cast<long long>(s.offset),
           static_cast<long long>(s.length));
    end = s.offset + s.length;
    if (u.n_groups > 0 && (s.group < 0 || s.group >= u.n_groups))
      fail(GC_INVALID, "group must be in 0..%lld; that of segment %lld is %d.",
           static_cast<long long>(u.n_groups - 1), static_cast<long long>(i), s.group);
    check_not_negative("lr_scale", s.lr_scale);
    check_not_negative("weight_decay", s.weight_decay);
    if (u.clip == GC_CLIP_ADAPTIVE && (s.unit < 1 || s.length % s.unit != 0))
      fail(GC_INVALID, "unit must divide the segment's length %lld; that of segment %lld is %lld.",
           static_cast<long long>(s.length), static_cast<long long>(i),
           static_cast<long long>(s.unit));
  }
}

void validate(const gc_update& u) {
  validate_rule(u);
  if (u.dtype != GC_FLOAT32 && u.dtype != GC_FLOAT64)
    fail(GC_INVALID, "dtype must be a gc_dtype (0 or 1); got %d.", u.dtype);
  if (u.n < 0) fail(GC_INVALID, "n must be 0 or more; got %lld.", static_cast<long long>(u.n));
  if (u.threads < 0) fail(GC_INVALID, "threads must be 0 (automatic) or more; got %d.", u.threads);
  const Needs needs = needs_of(u);
  if (u.n > 0 && (!u.params || !u.grads || (needs.first && !u.first_moment) ||
                  (needs.second && !u.second_moment) || (needs.velocity && !u.velocity)))
    fail(GC_INVALID, "params, grads and the moments that this optimizer keeps must not be null.");
  validate_clip(u);
  validate_segments(u);
}

// A piece of one segment, at most chunk_elements long. With adaptive clipping, a chunk is either a
// number of whole units or a part of a single unit.
struct Chunk {
  int64_t offset, count;
  int64_t before;  // number of elements in all chunks before this one
  int64_t segment;
  int64_t unit;  // adaptive clipping: index of the chunk's first unit among all
  bool is_part;  // adaptive clipping: the chunk is a part of a unit
};

// The result of the first pass over a chunk. Norms are those of the true gradient, grads_exponent
// included.
struct Measured {
  ScaledSum before, after;
  double weights;  // adaptive clipping: sum of squares of the parameters
  int64_t clipped;
};

// Sums over a segment, a group or everything.
struct Tally {
  ScaledSum before, after;
  int64_t clipped = 0;
  double update = 0, param = 0;

  void add(const Tally& other) noexcept {
    before.add(other.before);
    after.add(other.after);
    clipped += other.clipped;
    update += other.update;
    param += other.param;
  }
  gc_group_report report() const noexcept {
    return {before.root().log10(), clipped ? after.root().log10() : before.root().log10(),
            std::sqrt(update), std::sqrt(param), clipped};
  }
};

struct Division {
  int64_t chunks = 0, units = 0, elements = 0;
};

// Calls with_chunk for every chunk in ascending order and returns the totals.
template <class F>
Division divide(const gc_update& u, const gc_segment* segments, int64_t n_segments, F with_chunk) {
  Division all;
  for (int64_t s = 0; s < n_segments; s++) {
    const bool adaptive = u.clip == GC_CLIP_ADAPTIVE;
    const int64_t unit = adaptive ? segments[s].unit : segments[s].length;
    const bool whole = adaptive && unit <= chunk_elements;
    // A run is cut into chunks of at most `most` elements. Units longer than a chunk are runs of
    // their own; otherwise the whole segment is one run.
    const int64_t run = whole ? segments[s].length : unit;
    const int64_t most = whole ? chunk_elements / unit * unit : chunk_elements;
    for (int64_t begin = 0; begin < segments[s].length; begin += run)
      for (int64_t i = begin; i < begin + run; i += most) {
        const int64_t count = std::min(most, begin + run - i);
        with_chunk(all.chunks++, Chunk{segments[s].offset + i, count, all.elements, s,
                                       all.units + i / unit, adaptive && !whole});
        all.elements += count;
      }
    if (adaptive) all.units += segments[s].length / unit;
  }
  return all;
}

enum class Outcome { done, not_finite, out_of_range };

template <class T>
struct Factors {
  T factor[2];
};

template <class T>
class Step {
 public:
  Step(gc_update& update, const gc_segment* segments, int64_t n_segments, const Division& division)
      : u_(update),
        segments_(segments),
        n_segments_(n_segments),
        division_(division),
        limit_{update.clip_limit, update.clip_limit_exponent},
        lr_divisor_(lr_divisor(update)),
        kernels_(optim_kernels<T>()) {
    Layout layout;
    layout.announce(chunks_, division.chunks);
    layout.announce(measured_, division.chunks);
    layout.announce(sums_, division.chunks);
    layout.announce(rules_, n_segments);
    layout.announce(tallies_, n_segments);
    layout.announce(units_, division.units);
    arena_.emplace(layout.bytes());
    layout.place(arena_->data());
  }

  // Performs the whole step. Unless it returns Outcome::done, nothing has changed.
  Outcome run() noexcept {
    divide(u_, segments_, n_segments_,
           [this](int64_t c, const Chunk& chunk) { chunks_[c] = chunk; });
    const UpdateRule<T> common = common_rule();
    for (int64_t s = 0; s < n_segments_; s++) rules_[s] = segment_rule(common, segments_[s]);
    const int64_t wanted = u_.threads ? u_.threads : default_threads();
    const int64_t useful =
        std::max<int64_t>(1, division_.elements / (chunk_elements * chunks_per_thread));
    run_team(static_cast<int>(std::min(wanted, useful)), *this);
    return outcome_;
  }

  void operator()(Team& team, int me) noexcept {
    const int64_t begin = first_chunk(me, team.size()), end = first_chunk(me + 1, team.size());
    for (int64_t c = begin; c < end; c++) measured_[c] = measure(chunks_[c]);
    team.wait(me);
    if (me == 0) decide();
    team.wait(me);
    if (outcome_ != Outcome::done) return;
    for (int64_t c = begin; c < end; c++) sums_[c] = update(chunks_[c], measured_[c].clipped);
  }

  // Writes the reports of the segments, the groups and the whole step for the caller.
  void report() const noexcept {
    for (int64_t c = 0; c < division_.chunks; c++) {
      Tally& tally = tallies_[chunks_[c].segment];
      tally.update += sums_[c].update;
      tally.param += sums_[c].param;
    }
    Tally total;
    for (int64_t s = 0; s < n_segments_; s++) {
      if (u_.segments) u_.segments[s].clipped = tallies_[s].clipped;
      total.add(tallies_[s]);
    }
    if (u_.clip == GC_CLIP_GLOBAL) total.clipped = std::min<int64_t>(total.clipped, 1);
    u_.total = total.report();
    u_.clip_scale = total.clipped ? (total.after.root() / total.before.root()).value() : 1;
    for (int64_t group = 0; group < u_.n_groups; group++) {
      Tally tally;
      for (int64_t s = 0; s < n_segments_; s++)
        if (segments_[s].group == group) tally.add(tallies_[s]);
      if (u_.clip == GC_CLIP_GLOBAL) tally.clipped = std::min<int64_t>(tally.clipped, 1);
      u_.groups[group] = tally.report();
    }
  }

 private:
  // Gives the threads equal numbers of elements rather than of chunks, since chunks of biases are
  // short.
  int64_t first_chunk(int me, int team) const noexcept {
    const int64_t elements = division_.elements * me / team;
    const Chunk* const found =
        std::lower_bound(chunks_, chunks_ + division_.chunks, elements,
                         [](const Chunk& chunk, int64_t n) { return chunk.before < n; });
    return found - chunks_;
  }

  static double lr_divisor(const gc_update& u) noexcept {
    const double steps = static_cast<double>(u.step);
    if (u.kind == GC_ADAM || u.kind == GC_ADAMW) return 1 - std::pow(u.beta1, steps);
    return u.kind == GC_ADAGRAD ? 1 + (steps - 1) * u.lr_decay : 1;
  }

  UpdateRule<T> common_rule() const noexcept {
    UpdateRule<T> rule{};
    const bool by_value = u_.clip == GC_CLIP_VALUE;
    rule.limit = by_value ? static_cast<T>(limit_.value()) : std::numeric_limits<T>::infinity();
    set_factor(rule.factor, {1, 0});
    rule.momentum = static_cast<T>(u_.momentum);
    rule.take = static_cast<T>(1 - u_.dampening);
    rule.first = u_.step == 1;
    rule.nesterov = u_.nesterov != 0;
    const double beta1 = u_.kind == GC_RMSPROP ? u_.alpha : u_.beta1;
    const double beta2 = u_.kind == GC_RMSPROP ? u_.alpha : u_.beta2;
    rule.beta1 = static_cast<T>(beta1);
    rule.one_minus_beta1 = static_cast<T>(1 - beta1);
    rule.beta2 = static_cast<T>(beta2);
    rule.one_minus_beta2 = static_cast<T>(1 - beta2);
    rule.root_correction =
        static_cast<T>(1 / std::sqrt(1 - std::pow(u_.beta2, static_cast<double>(u_.step))));
    rule.eps = static_cast<T>(u_.eps);
    return rule;
  }

  UpdateRule<T> segment_rule(UpdateRule<T> rule, const gc_segment& segment) const noexcept {
    const bool decoupled = u_.kind == GC_ADAMW || u_.kind == GC_LION;
    const double lr = u_.lr * segment.lr_scale;
    rule.coupled_decay = static_cast<T>(decoupled ? 0 : segment.weight_decay);
    rule.keep = static_cast<T>(decoupled ? 1 - lr * segment.weight_decay : 1);
    rule.lr = static_cast<T>(lr / lr_divisor_);
    return rule;
  }

  // Sets two factors whose product brings the array to the true gradient times `scale`. Each factor
  // is a normal number of T. Beyond the square of T's range the result would be 0 or overflow in
  // any case.
  void set_factor(T (&factor)[2], Scaled scale) const noexcept {
    constexpr int64_t range = std::numeric_limits<T>::max_exponent - 4;
    const Scaled whole = Scaled{scale.mantissa, scale.exponent + u_.grads_exponent}.normalised();
    const int64_t exponent = std::clamp<int64_t>(whole.exponent, -2 * range, 2 * range);
    const int64_t half = std::abs(exponent) <= range ? exponent : exponent / 2;
    factor[0] = static_cast<T>(times_power(whole.mantissa, half));
    factor[1] = static_cast<T>(power_of_two(exponent - half));
  }

  const T* grads(int64_t offset) const noexcept { return static_cast<const T*>(u_.grads) + offset; }
  T* params(int64_t offset) const noexcept { return static_cast<T*>(u_.params) + offset; }
  static T* moment(void* array, int64_t offset) noexcept {
    return array ? static_cast<T*>(array) + offset : nullptr;
  }

  // Returns the sum of squares of the true gradient, or NaN if an element is not finite.
  ScaledSum squares(int64_t offset, int64_t n) const noexcept {
    return rescaled(kernels_.sum_squares(grads(offset), 1, n), offset, n);
  }
  ScaledSum rescaled(double sum, int64_t offset, int64_t n) const noexcept {
    // float64 squares overflow for elements above 1e154 and lose bits below 1e-154, but a sum of at
    // least 1e-280 has lost none that matter. Squares of float32 always fit.
    if (std::is_same_v<T, float> || (sum >= 1e-280 && std::isfinite(sum)))
      return {sum, u_.grads_exponent};
    const T* const x = grads(offset);
    T largest = 0;
    for (int64_t i = 0; i < n; i++) {
      if (!std::isfinite(x[i])) return {std::numeric_limits<double>::quiet_NaN(), 0};
      largest = std::max(largest, std::abs(x[i]));
    }
    if (largest == 0) return {};
    const int64_t exponent = std::clamp(std::ilogb(largest), -1000, 1000);
    return {kernels_.sum_squares(x, power_of_two(-exponent), n), u_.grads_exponent + exponent};
  }

  Measured measure(const Chunk& chunk) const noexcept {
    Measured m{};
    if (u_.clip == GC_CLIP_VALUE) {
      // `after` is read only if something was clipped, and its root is then at least the limit. The
      // sum is therefore computed on the scale of the limit.
      constexpr int range = std::numeric_limits<T>::max_exponent - 4;
      const double limit = static_cast<double>(rules_[chunk.segment].limit);
      const int exponent =
          limit > 0 && std::isfinite(limit) ? std::clamp(std::ilogb(limit), -range, range) : 0;
      const ValueSums sums = kernels_.value_sums(rules_[chunk.segment], grads(chunk.offset),
                                                 power_of_two(-exponent), chunk.count);
      m.before = rescaled(sums.before, chunk.offset, chunk.count);
      m.after = {sums.after, exponent};
      m.clipped = sums.clipped;
    } else if (u_.clip == GC_CLIP_ADAPTIVE && !chunk.is_part) {
      const int64_t unit = segments_[chunk.segment].unit;
      for (int64_t i = 0; i < chunk.count; i += unit) {
        const ScaledSum grad = squares(chunk.offset + i, unit);
        const double weights = kernels_.sum_squares(params(chunk.offset + i), 1, unit);
        m.before.add(grad);
        clip_unit(chunk.unit + i / unit, grad, weights, m.after, m.clipped);
      }
    } else {
      m.before = squares(chunk.offset, chunk.count);
      if (u_.clip == GC_CLIP_ADAPTIVE)
        m.weights = kernels_.sum_squares(params(chunk.offset), 1, chunk.count);
    }
    return m;
  }

  // Applies adaptive clipping to one unit (Brock et al. 2021, equation 3).
  void clip_unit(int64_t unit, ScaledSum grad, double weights, ScaledSum& after,
                 int64_t& clipped) const noexcept {
    const Scaled largest = limit_ * std::max(std::sqrt(weights), u_.clip_eps);
    const bool is_clipped = grad.root() > largest;
    const Scaled scale = is_clipped ? largest / grad.root() : Scaled{1, 0};
    set_factor(units_[unit].factor, scale);
    after.add(is_clipped ? grad.scaled(scale) : grad);
    clipped += is_clipped;
  }

  // Runs between the two passes on one thread: sums the norms and completes the rules.
  void decide() noexcept {
    ScaledSum unit;
    double weights = 0;
    for (int64_t s = 0; s < n_segments_; s++) tallies_[s] = {};
    for (int64_t c = 0; c < division_.chunks; c++) {
      const Chunk& chunk = chunks_[c];
      Tally& tally = tallies_[chunk.segment];
      tally.before.add(measured_[c].before);
      tally.after.add(measured_[c].after);
      tally.clipped += measured_[c].clipped;
      if (!chunk.is_part) continue;
      unit.add(measured_[c].before);
      weights += measured_[c].weights;
      if (c + 1 < division_.chunks && chunks_[c + 1].is_part && chunks_[c + 1].unit == chunk.unit)
        continue;
      clip_unit(chunk.unit, unit, weights, tally.after, tally.clipped);
      unit = {};
      weights = 0;
    }
    ScaledSum total;
    for (int64_t s = 0; s < n_segments_; s++) total.add(tallies_[s].before);
    const Scaled norm = total.root();
    for (int64_t s = 0; s < n_segments_; s++) {
      Tally& tally = tallies_[s];
      if (u_.clip == GC_CLIP_GLOBAL) scale_segment(s, norm);
      if (u_.clip == GC_CLIP_SEGMENT) scale_segment(s, tally.before.root());
      if (tally.clipped == 0) tally.after = tally.before;
    }
    if (!std::isfinite(total.sum))
      outcome_ = Outcome::not_finite;
    else
      outcome_ = is_representable() ? Outcome::done : Outcome::out_of_range;
  }

  void scale_segment(int64_t s, Scaled norm) noexcept {
    const bool is_clipped = norm > limit_;
    const Scaled scale = is_clipped ? limit_ / norm : Scaled{1, 0};
    set_factor(rules_[s].factor, scale);
    tallies_[s].clipped = is_clipped;
    tallies_[s].after = tallies_[s].before.scaled(scale);
  }

  // Returns false if the clip leaves gradients whose values times 2^grads_exponent exceed the
  // dtype's range.
  bool is_representable() const noexcept {
    const Scaled largest{1, std::numeric_limits<T>::max_exponent - 1};
    for (int64_t s = 0; s < n_segments_; s++)
      if (u_.grads_exponent != 0 && tallies_[s].after.root() > largest) return false;
    return true;
  }

  UpdateSums update(const Chunk& chunk, int64_t clipped) const noexcept {
    const UpdateRule<T>& rule = rules_[chunk.segment];
    if (u_.clip != GC_CLIP_ADAPTIVE || (clipped == 0 && !chunk.is_part))
      return update(rule, chunk.offset, chunk.count);
    UpdateSums sums{};
    const int64_t unit = std::min(segments_[chunk.segment].unit, chunk.count);
    for (int64_t i = 0; i < chunk.count; i += unit) {
      UpdateRule<T> own = rule;
      const Factors<T>& factors = units_[chunk.unit + i / unit];
      std::copy(factors.factor, factors.factor + 2, own.factor);
      const UpdateSums part = update(own, chunk.offset + i, unit);
      sums.update += part.update;
      sums.param += part.param;
    }
    return sums;
  }

  UpdateSums update(const UpdateRule<T>& rule, int64_t offset, int64_t n) const noexcept {
    const UpdateArrays<T> arrays{params(offset), grads(offset), moment(u_.first_moment, offset),
                                 moment(u_.second_moment, offset), moment(u_.velocity, offset)};
    return kernel()(rule, arrays, n);
  }

  typename OptimKernels<T>::Update kernel() const noexcept {
    switch (u_.kind) {
      case GC_SGD:
        return u_.momentum > 0 ? kernels_.sgd_momentum : kernels_.sgd;
      case GC_RMSPROP:
        return kernels_.rmsprop[u_.centered != 0][u_.momentum > 0];
      case GC_ADAGRAD:
        return kernels_.adagrad;
      case GC_LION:
        return kernels_.lion;
      default:
        return kernels_.adam;
    }
  }

  gc_update& u_;
  const gc_segment* const segments_;
  const int64_t n_segments_;
  const Division division_;
  const Scaled limit_;
  const double lr_divisor_;
  const OptimKernels<T>& kernels_;
  Chunk* chunks_ = nullptr;         // [chunks]
  Measured* measured_ = nullptr;    // [chunks]
  UpdateSums* sums_ = nullptr;      // [chunks]
  UpdateRule<T>* rules_ = nullptr;  // [segments]
  Tally* tallies_ = nullptr;        // [segments]
  Factors<T>* units_ = nullptr;     // [units] adaptive clipping: each unit's scale of the gradient
  std::optional<Arena> arena_;
  Outcome outcome_ = Outcome::done;
};

// Fails with the index of the first element that is not finite.
template <class T>
[[noreturn]] void fail_not_finite(gc_update& u, const gc_segment* segments, int64_t n_segments) {
  const T* const grads = static_cast<const T*>(u.grads);
  for (int64_t s = 0; s < n_segments; s++)
    for (int64_t i = segments[s].offset; i < segments[s].offset + segments[s].length; i++)
      if (!std::isfinite(grads[i])) {
        u.where = i;
        fail(GC_NONFINITE,
             "Element %lld of the gradient is %g; nothing was updated. Look for an overflow in the "
             "forward pass or a learning rate that is too large.",
             static_cast<long long>(i), static_cast<double>(grads[i]));
      }
  fail(GC_INTERNAL, "The norm of a finite gradient came out as not finite.");
}

template <class T>
void run_step(gc_update& u) {
  const gc_segment whole{0, u.n, 0, 1, 0, std::max<int64_t>(1, u.n), 0};
  const gc_segment* const segments = u.segments ? u.segments : &whole;
  const int64_t n_segments = u.segments ? u.n_segments : u.n > 0;
  Step<T> step(u, segments, n_segments,
               divide(u, segments, n_segments, [](int64_t, const Chunk&) {}));
  switch (step.run()) {
    case Outcome::done:
      return step.report();
    case Outcome::not_finite:
      fail_not_finite<T>(u, segments, n_segments);
    case Outcome::out_of_range:
      fail(GC_INVALID,
           "The gradient is its numbers times 2^%lld, and the clip leaves it beyond the range of "
           "its dtype; nothing was updated. Bound every step with a maximal norm, as "
           "gd.clip.GlobalNorm(max_norm) or gd.clip.ZScore(max_norm=...).",
           static_cast<long long>(u.grads_exponent));
  }
}

}  // namespace
}  // namespace gradcore

extern "C" gc_status gc_optimizer_step(gc_update* update) {
  return gradcore::guarded([update] {
    if (!update) gradcore::fail(GC_INVALID, "update must not be null.");
    gradcore::validate(*update);
    if (update->dtype == GC_FLOAT32)
      gradcore::run_step<float>(*update);
    else
      gradcore::run_step<double>(*update);
  });
}
