// What all stages of a part share in a call.
#pragma once
#include <gradcore/gradcore.h>

#include <cstring>

#include "kernels/kernel_table.h"
#include "sequence/division.h"
#include "sequence/masks.h"
#include "sequence/network.h"
#include "sequence/presence.h"
#include "sequence/purpose.h"
#include "sequence/timeline.h"
#include "sequence/worker.h"

namespace gradcore {

// The arrays through which a part and the next one meet, null in the last part; and what it must
// know of its neighbours.
template <class T>
struct Link {
  Source source;
  T* out = nullptr;                         // [T][B][part.width]
  const T* d_out = nullptr;                 // [T][B][part.width], null without backward
  const int32_t* d_out_exponent = nullptr;  // [T] no_exponent where all is zero
  // dx_exponent is to be no_exponent where dx is zero.
  bool marks_zeros = false;
  // dx, and the gradients of what comes before the layer, hold those of the other direction
  // already: this part adds its own.
  bool joins = false;
  // Tangents: of `out`, with this direction's exponents; of what this part reads, whose columns
  // from t_in_split on have the exponents t_in_exponent[1]; of d_out and of dx. Null without
  // tangents.
  T* t_out = nullptr;                                    // [T][B][K][part.width]
  int32_t* t_out_exponent = nullptr;                     // [T]
  const T* t_in = nullptr;                               // [T][B][K][I]
  const int32_t* t_in_exponent[2] = {nullptr, nullptr};  // [T] no_exponent where all is zero
  int64_t t_in_split = 0;
  const T* t_d_out = nullptr;  // [T][B][part.width]
  T* t_dx = nullptr;           // [T][B][I]
};

// Arrays that stages share, since no two of them need one at the same time.
enum Scratch : int {
  scratch_gradient,  // of rows between two stages; and the next
  scratch_gradient_2,
  scratch_outputs,
  scratch_x_pre,
  scratch_dz,
  scratch_zone,
  scratch_zone_cell,
  scratch_masked,
  scratch_record,
  scratch_zeros,
  scratch_t_gradient,  // as above, of tangents
  scratch_t_gradient_2,
  scratch_t_outputs,
  scratch_t_x_pre,
  scratch_t_h_pre,
  scratch_t_dz,
  scratch_t_masked,
  scratch_h_pre,
  scratch_d_steps,
  scratch_carried,
  scratch_t_product,
  scratch_c_rows,  // of cotangents
  scratch_c_rows_2,
  scratch_c_dz,
  scratch_c_jacobian,  // and one more for each thread
};

template <class T>
struct Context {
  static constexpr int UB = unit_block<T>;

  const Part& part;
  const Network& net;
  gc_call& call;
  const Link<T>& link;
  const Kernels<T>& kernels;
  const Purpose purpose;
  const MaskSource masks;
  const Division division;
  Timeline timeline;
  Crew crew;
  int64_t chunk_steps = block_steps;    // the longest chunk
  int64_t segment_steps = block_steps;  // the longest range of an operation
  int64_t origin = 0;                   // first step of the segment that the states are of
  bool goes_back = false;               // an operation that goes back has begun
  bool stopped = false;                 // a callback asked to stop

  // Rows of a whole chunk.
  int64_t rows() const { return chunk_steps * timeline.batch; }
  const T* params() const { return static_cast<const T*>(call.params); }
  // Where a layer's or window's part of state k begins among several flat states.
  int64_t state_place(const StateShape& layer, int64_t k) const {
    return (k * net.state_size + layer.state_offset) * timeline.batch;
  }
};

// Elements of a layer's or window's state, for `batch` sequences.
inline int64_t state_elements(const StateShape& layer, int64_t batch) {
  return (layer.lead + layer.states - 1) * batch * layer.H;
}

template <class T>
void zero(T* at, int64_t count) {
  if (at && count > 0) std::memset(at, 0, static_cast<size_t>(count) * sizeof(T));
}
// The two may overlap.
template <class T>
void copy(T* to, const T* from, int64_t count) {
  std::memmove(to, from, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace gradcore
