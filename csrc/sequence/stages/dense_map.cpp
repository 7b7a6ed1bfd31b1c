#include "sequence/stages/dense_map.h"

#include <algorithm>

namespace gradcore {

// Appends [begin,end), which joins the last range where it begins at its end.
static void append(std::vector<Slice>& ranges, int64_t begin, int64_t end) {
  if (!ranges.empty() && ranges.back().end == begin)
    ranges.back().end = end;
  else
    ranges.push_back({begin, end});
}

// The elements of `side` that belong to any of the groups, which ascend.
static std::vector<Slice> ranges_of(const DenseSide& side, const std::vector<int64_t>& groups) {
  const int64_t size = side.each / side.groups;
  std::vector<Slice> ranges;
  for (int64_t tap = 0; tap < side.taps; tap++)
    for (const int64_t group : groups) {
      const int64_t begin = tap * side.each + group * size;
      append(ranges, begin, begin + size);
    }
  return ranges;
}

static std::vector<int64_t> groups_of(const DenseSide& side, int64_t begin, int64_t end) {
  std::vector<int64_t> groups;
  for (int64_t element = begin; element < end; element++) groups.push_back(side.group_of(element));
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return groups;
}

DenseMap::DenseMap(const DenseSide& own, const DenseSide& other, int64_t ub) {
  const int64_t blocks = (own.units() + ub - 1) / ub;
  std::vector<int64_t> before;
  for (int64_t j = 0; j < blocks; j++) {
    std::vector<int64_t> groups = groups_of(own, j * ub, std::min((j + 1) * ub, own.units()));
    if (j > 0 && groups == before) {
      spans_.back().j1++;
    } else {
      DenseSpan span{static_cast<int32_t>(j),
                     static_cast<int32_t>(j + 1),
                     ranges_of(other, groups),
                     {},
                     0,
                     0,
                     0};
      for (const Slice& range : span.ranges) {
        span.elements += range.size();
        for (int64_t at = range.begin; at < range.end; at += ub)
          span.runs.push_back(
              {static_cast<int32_t>(at), static_cast<int32_t>(std::min(ub, range.end - at))});
      }
      spans_.push_back(std::move(span));
    }
    index_.push_back(static_cast<int32_t>(spans_.size() - 1));
    before = std::move(groups);
  }
  for (DenseSpan& span : spans_) {
    const int64_t count = span.j1 - span.j0;
    span.at_weight = weights_;
    span.at_sums = sums_;
    weights_ += count * static_cast<int64_t>(span.runs.size()) * ub * ub;
    sums_ += count * span.elements * ub;
  }
}

}  // namespace gradcore
