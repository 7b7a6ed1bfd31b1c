// Which elements of the rows on the other side each block of one side of a dense layer meets: all
// of them, or with groups those of its own groups.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"
#include "sequence/division.h"

namespace gradcore {

// One side of a dense layer: rows of `taps` times `each` elements, which `groups` divide evenly.
struct DenseSide {
  int64_t taps, each, groups;
  int64_t units() const { return taps * each; }
  int64_t group_of(int64_t element) const { return element % each / (each / groups); }
};

// Unit blocks [j0,j1) of the one side that meet the same elements of the other.
struct DenseSpan {
  int32_t j0, j1;
  std::vector<Slice> ranges;  // of elements, ascending
  std::vector<Run> runs;      // the same in pieces of at most one unit block
  int64_t elements;           // in all ranges
  int64_t at_weight;          // where its weights [j1-j0][runs][UB][UB] begin
  int64_t at_sums;            // where its sums [j1-j0][elements][UB] begin
};

class DenseMap {
 public:
  // ub: elements of a unit block.
  DenseMap(const DenseSide& own, const DenseSide& other, int64_t ub);

  const std::vector<DenseSpan>& spans() const { return spans_; }
  const DenseSpan& span_of(int64_t block) const {
    return spans_[static_cast<size_t>(index_[static_cast<size_t>(block)])];
  }
  // Elements of all weights and of all sums.
  int64_t weights() const { return weights_; }
  int64_t sums() const { return sums_; }

 private:
  std::vector<DenseSpan> spans_;
  std::vector<int32_t> index_;  // by block
  int64_t weights_ = 0, sums_ = 0;
};

}  // namespace gradcore
