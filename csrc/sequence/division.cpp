#include "sequence/division.h"

#include <algorithm>

#include "base/limits.h"
#include "base/team.h"
#include "sequence/presence.h"

namespace gradcore {

// The cost model. Threads that own units meet twice per step, forward and backward, and read what
// the other wrote: 0.7 us per step on a machine whose barrier takes 170 ns. Two threads broke even
// between 40,000 flops forward per step (LSTM of 64 units, B = 1: 1.66 us with one, 1.76 with two;
// GRU 1.22 and 1.6) and 110,000 (GRU of 128: 4.5 and 3.9). Threads that own sequences meet once per
// chunk: a third of that is enough.
//
// Threads own sequences, and meet once per chunk, where each gets whole tiles of rows and its cache
// feeds them: every tile of 4 rows reads all weights, a block of them at a time for all its tiles,
// so that half of the second-level cache holds what a tile needs. Otherwise they own units, where
// every thread gets as many blocks as any other, or enough of them. Decision 9 has the
// measurements.
Division::Division(const Network& net, const gc_call& call, int64_t followers)
    : batch_(call.batch), ragged_(has(call, GC_ARRAY_LENGTHS)) {
  const int64_t B = call.batch, element = net.dtype == GC_FLOAT32 ? 4 : 8;
  const bool tokens = has(call, GC_ARRAY_TOKENS);
  int wanted = std::min(call.threads > 0 ? call.threads : default_threads(), max_team);
  int64_t flops = 0, most_blocks = 0;
  for (const Layer& l : net.layers) {
    flops += (1 + followers) * (l.pass ? 2 * l.H * net.outputs * B
                                       : 2 * l.gates * l.H * (l.head + (tokens ? 0 : l.I)) * B);
    most_blocks = std::max(most_blocks, l.nb);
  }
  auto dense = [&](const Transform& t) {
    return t.spec.kind == GC_DENSE ? (1 + followers) * 2 * t.I * t.O * B / t.groups() : 0;
  };
  for (const std::vector<Transform>& transforms : net.transforms)
    for (const Transform& t : transforms) flops += dense(t);
  if (!call.exact_threads && call.threads != 1) {
    const int64_t enough = B >= 2 * tile_rows ? 16384 : 49152;
    if (flops * element / 4 < enough) wanted = 1;
    const int64_t useful = std::max(most_blocks, B * (1 + followers));
    wanted = static_cast<int>(std::min<int64_t>(wanted, useful));
  }
  threads_ = wanted;
  for (const Layer& layer : net.layers) {
    const int64_t nb = layer.nb, tiles = B / (tile_rows * threads_),
                  weights = layer.gates * layer.reads() * layer.Hp * element;
    const bool whole_tiles = tiles > 0 && B % (tile_rows * threads_) == 0 &&
                             weights / (ragged_ ? 1 : tiles) <= l2_bytes() / 2;
    const bool even = nb >= threads_ && (nb % threads_ == 0 || nb >= 4 * threads_);
    by_units_.push_back(!whole_tiles && (even || B < threads_));
  }
}

}  // namespace gradcore
