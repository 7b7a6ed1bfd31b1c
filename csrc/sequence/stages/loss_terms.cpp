#include "sequence/stages/loss_terms.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradcore {
namespace {

constexpr double half_log_2_pi = 0.91893853320467274178;

// Binary cross-entropy of a logit and a target in [0, 1]; `slope` gets its derivative.
double cross_entropy_of_bit(double z, double y, double& slope) {
  // log(1 + e^x) - x y, arranged so that no exponential overflows.
  const double e = std::exp(-std::fabs(z));
  slope = (z >= 0 ? 1 / (1 + e) : e / (1 + e)) - y;
  return std::max(z, 0.0) - z * y + std::log1p(e);
}

double squared_error(double z, double y, double& slope) {
  slope = 2 * (z - y);
  return (z - y) * (z - y);
}

// Huber 1964: a parabola near 0 and straight lines beyond delta.
double huber(double z, double y, double delta, double& slope) {
  const double error = z - y;
  if (std::fabs(error) <= delta) {
    slope = error;
    return error * error / 2;
  }
  slope = std::copysign(delta, error);
  return delta * (std::fabs(error) - delta / 2);
}

// Koenker and Bassett 1978. The derivative at the kink is taken to be 0.
double quantile(double z, double y, double level, double& slope) {
  const double over = y - z;
  slope = over > 0 ? -level : (over < 0 ? 1 - level : 0.0);
  return (over > 0 ? level : level - 1) * over;
}

// Minus the log-density of y where z has the mean and the log-variance.
double gaussian(const gc_loss& loss, const double (&z)[2], double y, double (&slope)[2]) {
  const double precision = std::exp(-z[1]), error = z[0] - y;
  slope[0] = error * precision;
  slope[1] = (1 - error * error * precision) / 2;
  const double term = (z[1] + error * error * precision) / 2;
  return loss.full ? term + half_log_2_pi : term;
}

template <class T>
bool left_out(const gc_loss& loss, T y) {
  return loss.ignore_nan && std::isnan(y);
}

template <class T>
bool narrowed(T* z, double slope) {
  *z = static_cast<T>(slope);
  return std::isfinite(*z);
}

template <class T>
double gaussian_terms(const gc_loss& loss, T* z, const Targets<T>& targets, double factor) {
  double sum = 0;
  bool finite = true;
  for (int64_t i = 0; i < targets.count; i++) {
    const T y = targets.y[i];
    const double weight = targets.weight_of(i);
    double slope[2] = {0, 0};
    if (!left_out(loss, y)) {
      const double at[2] = {static_cast<double>(z[2 * i]), static_cast<double>(z[2 * i + 1])};
      sum += weight * gaussian(loss, at, static_cast<double>(y), slope);
    }
    for (int k = 0; k < 2; k++)
      finite = narrowed(z + 2 * i + k, weight * factor * slope[k]) && finite;
  }
  return finite ? sum : std::numeric_limits<double>::infinity();
}

// Terms of one output and one target each: term(z, y, part, slope), with the output's number among
// those of its target. It is a template because a choice among losses inside the loop made binary
// cross-entropy of 64 outputs a fifth slower.
template <class T, class F>
double plain_terms(const gc_loss& loss, T* z, const Targets<T>& given, double factor, F term) {
  // Copies, which the compiler knows not to change when an output is written.
  const Targets<T> targets = given;
  const int64_t parts = outputs_per_target(loss);
  const bool some_missing = loss.ignore_nan;
  double sum = 0;
  for (int64_t i = 0; i < targets.count; i++) {
    const T y = targets.y[i];
    const double weight = targets.weight_of(i);
    const bool there = !(some_missing && std::isnan(y));
    for (int64_t part = 0; part < parts; part++) {
      T* const at = z + i * parts + part;
      double slope = 0;
      if (there)
        sum += weight * term(static_cast<double>(*at), static_cast<double>(y), part, slope);
      *at = static_cast<T>(weight * factor * slope);
    }
  }
  return sum;
}

template <class T>
double plain_terms(const gc_loss& loss, T* z, const Targets<T>& targets, double factor) {
  switch (loss.kind) {
    case GC_LOSS_BCE:
      return plain_terms(loss, z, targets, factor, [](double x, double y, int64_t, double& slope) {
        return cross_entropy_of_bit(x, y, slope);
      });
    case GC_LOSS_HUBER:
      return plain_terms(loss, z, targets, factor, [&](double x, double y, int64_t, double& slope) {
        return huber(x, y, loss.delta, slope);
      });
    case GC_LOSS_QUANTILE:
      return plain_terms(loss, z, targets, factor,
                         [&](double x, double y, int64_t part, double& slope) {
                           return quantile(x, y, loss.quantiles[part], slope);
                         });
    default:
      return plain_terms(loss, z, targets, factor, [](double x, double y, int64_t, double& slope) {
        return squared_error(x, y, slope);
      });
  }
}

template <class T>
void gaussian_curvature(const Row<T>& row, int64_t i, double scale, T* moved) {
  const double precision = std::exp(-static_cast<double>(row.z[2 * i + 1]));
  const double error = static_cast<double>(row.z[2 * i]) - static_cast<double>(row.targets.y[i]);
  const double t_mean = static_cast<double>(moved[2 * i]),
               t_log = static_cast<double>(moved[2 * i + 1]);
  double of_mean = precision * t_mean, of_log = t_log / 2;
  if (!row.gauss_newton) {
    of_mean -= error * precision * t_log;
    of_log = error * precision * (error * t_log / 2 - t_mean);
  }
  moved[2 * i] = static_cast<T>(scale * of_mean);
  moved[2 * i + 1] = static_cast<T>(scale * of_log);
}

// Scale times the second derivative of a term of one output and one target.
template <class T>
double plain_curvature(const gc_loss& loss, const Row<T>& row, int64_t o, double y, double scale) {
  switch (loss.kind) {
    case GC_LOSS_BCE: {
      const double p = static_cast<double>(row.slope[o]) / scale + y;
      return scale * p * (1 - p);
    }
    case GC_LOSS_HUBER:
      return std::fabs(static_cast<double>(row.z[o]) - y) <= loss.delta ? scale : 0;
    case GC_LOSS_QUANTILE:
      return 0;
    default:
      return static_cast<double>(static_cast<T>(2 * scale));
  }
}

}  // namespace

int64_t terms_of(const gc_loss& loss, int64_t targets) {
  if (!targets_are_numbers(loss.kind)) return 1;
  return loss.kind == GC_LOSS_QUANTILE ? targets * loss.n_quantiles : targets;
}

bool curvature_needs_outputs(const gc_loss& loss) {
  return loss.kind == GC_LOSS_HUBER || loss.kind == GC_LOSS_GAUSSIAN;
}

template <class T>
int64_t count_targets(const gc_loss& loss, const T* y, int64_t targets) {
  int64_t count = 0;
  for (int64_t i = 0; i < targets; i++) count += !left_out(loss, y[i]);
  return count;
}

template <class T>
double term_of(const gc_loss& loss, const Kernels<T>& kernels, T* z, const Targets<T>& targets,
               double factor) {
  if (loss.kind == GC_LOSS_GAUSSIAN) return gaussian_terms(loss, z, targets, factor);
  // A row without missing targets has the bits that it has where none may be missing.
  const bool complete =
      !loss.ignore_nan || count_targets(loss, targets.y, targets.count) == targets.count;
  if (loss.kind == GC_LOSS_MSE && complete && !targets.each)
    return kernels.squared_error(z, targets.y, targets.count, targets.weight, factor);
  return plain_terms(loss, z, targets, factor);
}

template <class T>
void curvature_of(const gc_loss& loss, const Row<T>& row, T* moved) {
  const int64_t parts = outputs_per_target(loss);
  for (int64_t i = 0; i < row.targets.count; i++) {
    const T y = row.targets.y[i];
    const double scale = row.targets.weight_of(i) * row.factor;
    if (left_out(loss, y) || scale == 0) {
      std::fill(moved + i * parts, moved + (i + 1) * parts, T(0));
    } else if (loss.kind == GC_LOSS_GAUSSIAN) {
      gaussian_curvature(row, i, scale, moved);
    } else {
      for (int64_t o = i * parts; o < (i + 1) * parts; o++)
        moved[o] = static_cast<T>(plain_curvature(loss, row, o, static_cast<double>(y), scale) *
                                  static_cast<double>(moved[o]));
    }
  }
}

template int64_t count_targets(const gc_loss&, const float*, int64_t);
template int64_t count_targets(const gc_loss&, const double*, int64_t);
template double term_of(const gc_loss&, const Kernels<float>&, float*, const Targets<float>&,
                        double);
template double term_of(const gc_loss&, const Kernels<double>&, double*, const Targets<double>&,
                        double);
template void curvature_of(const gc_loss&, const Row<float>&, float*);
template void curvature_of(const gc_loss&, const Row<double>&, double*);

}  // namespace gradcore
