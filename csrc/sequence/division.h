// How the threads of a call divide its work.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"
#include "sequence/network.h"

namespace gradcore {

constexpr int32_t tile_rows = 4;  // rows of a tile of the recurrent kernels

// What one thread gets of n things in a row.
struct Slice {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  // Of blocks: their elements.
  Slice times(int64_t n) const { return {begin * n, end * n}; }
};

inline Slice slice(int64_t n, int me, int size) { return {n * me / size, n * (me + 1) / size}; }

class Division {
 public:
  // followers: how many tangents and cotangents follow the states of each sequence.
  Division(const Network& net, const gc_call& call, int64_t followers);

  int threads() const { return threads_; }
  // Whether the threads own unit blocks of all sequences in layer l. Otherwise each owns all units
  // of some of the sequences.
  bool by_units(int l) const { return by_units_[static_cast<size_t>(l)]; }
  // Calls f(share) for each part of layer l, of nb unit blocks, that thread `me` of `size`
  // computes.
  template <class F>
  void each_share(int l, int64_t blocks, int me, int size, F f) const {
    const auto nb = static_cast<int32_t>(blocks), B = static_cast<int32_t>(batch_);
    if (by_units(l)) {
      f(Share{nb * me / size, nb * (me + 1) / size, 0, B, size > 1});
    } else if (ragged_ && B % (tile_rows * size) == 0) {
      // Tiles dealt out in turn: batches sorted by length leave no thread idle.
      for (int32_t b = tile_rows * me; b < B; b += tile_rows * size)
        f(Share{0, nb, b, b + tile_rows, false});
    } else {
      f(Share{0, nb, B * me / size, B * (me + 1) / size, false});
    }
  }

 private:
  int64_t batch_;
  bool ragged_;
  int threads_ = 1;
  std::vector<bool> by_units_;
};

}  // namespace gradcore
