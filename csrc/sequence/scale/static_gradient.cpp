#include "sequence/scale/static_gradient.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace gradcore {

void StaticGradient::lay_out(Layout& layout) {
  layout.announce(total_, rows_ * size_);
  layout.announce(own_, rows_ * size_);
}

void StaticGradient::start() {
  std::fill(total_, total_ + rows_ * size_, 0.0);
  exponent_ = no_exponent;
}

double StaticGradient::largest(const double* values) const {
  double most = 0;
  for (int64_t i = 0; i < rows_ * size_; i++) {
    if (!std::isfinite(values[i]))
      fail(GC_NONFINITE,
           "the gradient of the static inputs overflowed although the adjoints did not; use "
           "float64.");
    most = std::max(most, std::fabs(values[i]));
  }
  return most;
}

template <class T, class Sum>
void StaticGradient::add(const T* weight, const Sum* sums, int64_t units, int64_t stride,
                         int64_t exponent) {
  for (int64_t r = 0; r < rows_; r++) {
    double* to = own_ + r * size_;
    std::fill(to, to + size_, 0.0);
    for (int64_t u = 0; u < units; u++)
      for (int64_t s = 0; s < size_; s++)
        to[s] +=
            static_cast<double>(weight[u * size_ + s]) * static_cast<double>(sums[r * stride + u]);
  }
  if (largest(own_) == 0) return;
  const int64_t next = std::max(exponent, exponent_);
  const auto old_factor = power_of_two<double>(exponent_ - next),
             factor = power_of_two<double>(exponent - next);
  for (int64_t i = 0; i < rows_ * size_; i++) total_[i] = total_[i] * old_factor + own_[i] * factor;
  exponent_ = next;
}

template <class T, class Place>
void StaticGradient::write_rows(T* out, int32_t* exponent, Place place) const {
  const double most = largest(total_);
  const bool folds = most == 0 || fits<T>(most, exponent_);
  // Else the largest element lies between 0.5 and 1.
  const int64_t kept = folds ? 0 : exponent_ + exponent_of(most),
                shift = most == 0 ? 0 : exponent_ - kept;
  for (int64_t r = 0; r < rows_; r++)
    for (int64_t s = 0; s < size_; s++)
      out[place(r) * size_ + s] = static_cast<T>(shifted(total_[r * size_ + s], shift));
  *exponent = static_cast<int32_t>(kept);
}

template <class T>
void StaticGradient::write(T* out, int32_t* exponent) const {
  write_rows(out, exponent, [](int64_t r) { return r; });
}

template <class T>
void StaticGradient::write_cotangents(T* out, int32_t* exponent, int64_t K) const {
  write_rows(out, exponent, [&](int64_t r) { return r % K * (rows_ / K) + r / K; });
}

template void StaticGradient::add(const float*, const float*, int64_t, int64_t, int64_t);
template void StaticGradient::add(const double*, const double*, int64_t, int64_t, int64_t);
template void StaticGradient::add(const float*, const double*, int64_t, int64_t, int64_t);
template void StaticGradient::write(float*, int32_t*) const;
template void StaticGradient::write(double*, int32_t*) const;
template void StaticGradient::write_cotangents(float*, int32_t*, int64_t) const;
template void StaticGradient::write_cotangents(double*, int32_t*, int64_t) const;

}  // namespace gradcore
