// Windows of steps at the border between two parts: which steps each is made of, and how many there
// are.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>

namespace gradcore {

// Steps of what a part reads, which are its own unless a window lies between.
struct Source {
  int64_t steps = 0;
  const int64_t* lengths = nullptr;  // [B], or null
  const uint8_t* reset = nullptr;    // [steps][B], or null

  bool active(int64_t step, int64_t b) const { return !lengths || step < lengths[b]; }
};

// A range of steps.
struct Reach {
  int64_t begin, end;
  bool has(int64_t step) const { return step >= begin && step < end; }
};

struct BorderShape {
  explicit BorderShape(const gc_transform& spec)
      : taps(spec.taps),
        stride(spec.stride),
        dilation(spec.dilation),
        left(spec.left),
        inside(spec.inside) {}

  const int64_t taps, stride, dilation, left;
  const bool inside;

  // Steps from the first to the last one of a window.
  int64_t length() const { return (taps - 1) * dilation + 1; }
  // Windows over n steps.
  int64_t steps(int64_t n) const {
    if (n < 1 || (inside && n < length())) return 0;
    return inside ? (n - length()) / stride + 1 : (n - 1) / stride + 1;
  }
  // The step that tap k of window t reads; it may be none of the sequence.
  int64_t step(int64_t t, int64_t k) const { return t * stride - left + k * dilation; }
  // The steps of window t that are those of a sequence of n steps; with resets, [T,B] from that of
  // the sequence on, as far as none lies between them and step t * stride.
  Reach reach(int64_t t, int64_t n, const uint8_t* reset, int64_t batch) const {
    const int64_t at = t * stride;
    Reach r{std::max<int64_t>(step(t, 0), 0), std::min(step(t, 0) + length(), n)};
    if (!reset) return r;
    for (int64_t s = std::min(at, n - 1); s > r.begin; s--)
      if (reset[s * batch]) r.begin = s;
    for (int64_t s = at + 1; s < r.end; s++)
      if (reset[s * batch]) r.end = s;
    return r;
  }
  // How many taps of window t lie in a range.
  int64_t present(int64_t t, const Reach& r) const {
    auto taps_below = [&](int64_t end) {  // taps before a step
      const int64_t n = end - step(t, 0);
      return n <= 0 ? 0 : std::min((n + dilation - 1) / dilation, taps);
    };
    return std::max<int64_t>(taps_below(r.end) - taps_below(r.begin), 0);
  }
};

}  // namespace gradcore
