// The table of kernels that every instruction-set level fills in, and the plain structures that its
// functions take.
//
// Layouts. UB = 64 / sizeof(T) units make a block; nb = blocks of a layer, Hp = nb * UB; all rows
// are padded to whole blocks and pads are 0. Kernels are noexcept, check nothing, and split work by
// output, never by partial sums: one output element is one fma chain in a fixed order.
#pragma once
#include <cstdint>

#include "base/team.h"
#include "cells/options.h"

namespace gradcore {

template <class T>
constexpr int unit_block = 64 / static_cast<int>(sizeof(T));

// A stretch of a dense product's inner dimension that lies contiguous in an input row.
struct Run {
  int32_t offset;  // elements from the start of the row
  int32_t length;  // 1..UB
};

// Which part of a layer one thread computes: unit blocks [j0,j1) of rows [b0,b1).
struct Share {
  int32_t j0, j1, b0, b1;
  bool by_units;  // other threads own other units of the same rows: a barrier after every step
};

// One stream of random words for masks of units: those of Philox for the counters (unit / 4, b, t,
// stream). A word is below `threshold` with the probability of what the mask decides.
struct MaskStream {
  uint32_t key[2];
  uint32_t stream;
  uint32_t threshold;
};

// What the recurrent kernels of one layer see: pointers are those of the chunk's first step
// `first`, steps are counted from it.
template <class T>
struct LayerView {
  int64_t first;  // absolute step
  int64_t B;      // sequences
  int32_t H, nb;  // units, unit blocks
  CellOptions options;
  int32_t skip_kind;  // gc_skip
  int64_t skip_lag;

  const T* w_forward;   // [nb][H][gates][UB]: weight_hh by unit block of the output
  const T* w_backward;  // [nb][gates][Hp][UB], or [nb][Hp][gates][UB] if interleaved: weight_hh^T
                        // by unit block of its output
  const T* bias_h;      // [nb][gates][UB]
  const T* skip_coef;   // [Hp] s or a
  bool interleaved;     // B == 1: a row reads the gates of a unit side by side

  const int64_t* lengths;     // [B] or null
  const int64_t* begins;      // [B] or null: rows rest before this step (time backward)
  const uint8_t* reset;       // [T, B] of the whole call, or null
  const int32_t* last_reset;  // [T, B] of the whole call: the latest reset step <= t, or INT32_MIN;
                              // null without resets or skip
  int64_t min_length;         // min over lengths; all rows are active before it
  int64_t max_begin;          // max over begins; all rows are active from it on

  T* h;  // [.][B][Hp] in/out: row 0 is the state before `first`; rows -lag+1.. precede it
  T* r;  // [.][B][Hp] what the recurrent product reads: h, or with r_mask in/out a copy of h times
         // the mask, row 0 that of h
  T* c;  // [.][B][Hp] in/out: the second state (LSTM)
  const T* zeros;  // [Hp] zeros
  const T* start;  // [lag][B][Hp] with begins and a skip connection: outputs before a row's first
                   // step; null: zeros, or no skip connection
  T* saved;        // [.][B][nb][cell saved][UB] out, null without a tape
  const T* x_pre;  // [.][B][nb][gates][UB] in: input product and its bias
  // Masks, null where there are none: part of a state that stays what it was before the step
  // (zoneout), and factors of h on its way into the recurrent product.
  const T *zone_h, *zone_c;  // [.][B][Hp] in
  const T* r_mask;           // [B][Hp] in
  T* h_pre;  // [.][B][nb][gates][UB] out: recurrent product and its bias, for tangents; null: not
             // kept

  // backward only
  T* d;     // [states][B][Hp] in/out: adjoint of the state, scaled
  T* ring;  // [lag][B][Hp] in/out: adjoints on their way to step t - lag, in slot t mod lag
  T* dz;    // [.][B] rows of [nb][planes][UB], z_row apart, out: adjoints of the pre-activations
  int64_t z_row;
  T* dskip;     // [.][B][Hp] out: terms of the gradient of the learned skip parameter; null if none
  const T* dy;  // [.][B][Hp] in: gradient arriving at the layer's outputs; null: none
  const T* dy_factor;  // [.] power of two that brings dy to the adjoint's scale
  T* record;   // [.][B][Hp] out: adjoint of each step's output by all paths; null if unwanted
  T* d_steps;  // [.][states][B][Hp] out: adjoint of the state after each step, all paths of h
               // included, for tangents; null: not kept
};

// What the kernels of cotangents see beside the layer: row r = b * K + k is cotangent k of sequence
// b. Null where there is none.
template <class T>
struct CotangentView {
  int64_t K, rows;  // cotangents; B * K
  T* jac;           // of the thread: [sequences of its rows][nb][local_entries][UB]
  T* masked;        // [rows][Hp] r_mask by row
  T* ring;          // [lag][rows][Hp] in/out: adjoints of outputs of steps t mod lag
  T* d;             // [states][rows][Hp] in/out: adjoint of the state
  T* dz;            // [.][rows] as LayerView::dz, out
  const T* dy;      // [.][rows][Hp] in: adjoint arriving at the layer's outputs
};

// What the tangent kernels of one layer see beside the LayerView of the same chunk. Row b * K + k
// is tangent k of sequence b; all are at one scale.
template <class T>
struct TangentView {
  int32_t K;
  const T* x_pre;      // [.][B*K][nb][gates][UB] in: tangents of x_pre; null: zero
  const T* h_pre;      // the same: what tangents of weight_hh and bias_hh add; null: zero
  const T* skip_coef;  // [K][Hp] in; null: zero
  const T* start;      // [lag][B*K][Hp] as in LayerView
  // [.][B*K][Hp] in/out, as in LayerView: row 0 is before the first step, rows -lag+1.. precede it
  T *h, *r, *c;
  T* saved;  // [.][B][nb][cell saved][UB] out, in for backward (K == 1); null: not kept

  // backward only, K == 1
  T* d;              // [states][B][Hp] in/out: tangent of the adjoint
  T* ring;           // [lag][B][Hp] in/out
  T* dz;             // [.][B][nb][planes][UB] out
  T* dskip;          // [.][B][Hp] out; null if the skip connection learns nothing
  const T* dy;       // [.][B][Hp] in; null: zero
  const T* carried;  // [.][B][Hp] in: what tangents of weight_hh make of dz; null: zero
};

template <class T>
struct CellKernels {
  int32_t gates, states, saved, planes;
  int32_t input_plane[4];
  bool antisymmetric;  // the recurrent product multiplies by A - A' - diffusion * I
  // Steps [i0,i1) of the chunk. Ends with a barrier if share.by_units.
  void (*forward)(const LayerView<T>&, int64_t i0, int64_t i1, const Share&, Team&,
                  int me) noexcept;
  // Steps i1-1 down to i0; d then belongs to the state before step i0. Threads may leave at
  // different times.
  void (*backward)(const LayerView<T>&, int64_t i0, int64_t i1, const Share&, Team&,
                   int me) noexcept;
  int32_t local_entries;  // of CotangentView::jac
  // Rows [r0,r1) over steps i1-1 down to i0. Rows do not meet: no barrier.
  void (*cotangent)(const LayerView<T>&, const CotangentView<T>&, int64_t i0, int64_t i1,
                    int64_t r0, int64_t r1) noexcept;
  // Tangents of steps [i0,i1), behind forward with h_pre kept; share.b0, b1 are rows of B*K. Ends
  // with a barrier if share.by_units.
  void (*tangent_forward)(const LayerView<T>&, const TangentView<T>&, int64_t i0, int64_t i1,
                          const Share&, Team&, int me) noexcept;
  // Tangents of steps i1-1 down to i0, behind backward with d_steps kept; K == 1.
  void (*tangent_backward)(const LayerView<T>&, const TangentView<T>&, int64_t i0, int64_t i1,
                           const Share&, Team&, int me) noexcept;
  // acc[j][k][g][UB] += sum over rows r = rows-1..0 of a[r][k] * dz[r][j][plane(g)][UB], blocks
  // [j0,j1), inputs [k0,k1) of K. Planes: 0..gates-1 (recurrent) or input_plane[] (input).
  void (*outer_recurrent)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                          int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                          int64_t k1) noexcept;
  void (*outer_input)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                      int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                      int64_t k1) noexcept;
};

#define GRADCORE_CELL(...) +1
constexpr int cell_count =
#include <gradcore/cells.def>
    ;
#undef GRADCORE_CELL

// The kernels of every cell, by its number (a gc_cell).
template <class T>
struct CellTable {
  const CellKernels<T>* by_number[cell_count];
  const CellKernels<T>& operator[](int32_t cell) const noexcept { return *by_number[cell]; }
};

template <class T>
struct Kernels {
  CellTable<T> cells;

  // out[r][j][UB] = bias[j][UB] + sum over runs q, elements e of in[r][runs[q].offset + e] *
  // w[j][q][e][UB]; rows [r0,r1), output blocks [j0,j1). bias may be null.
  void (*dense)(T* out, int64_t out_stride, const T* w, const T* bias, const T* in,
                int64_t in_stride, const Run* runs, int64_t n_runs, int64_t r0, int64_t r1,
                int32_t j0, int32_t j1) noexcept;
  // As CellKernels::outer_* with one gate and one plane.
  void (*outer_dense)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                      int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                      int64_t k1) noexcept;
  // acc[i] += sum over rows r = rows-1..0 of z[r][i], i in [i0,i1), whole vectors.
  void (*column_sum)(T* acc, const T* z, int64_t z_stride, int64_t rows, int64_t i0,
                     int64_t i1) noexcept;
  // total = total * keep + part * add; part = 0. n is a multiple of UB.
  void (*add_block)(T* total, T* part, int64_t n, T keep, T add) noexcept;
  // out[i] = a[i] + b[i] * factor
  void (*add_scaled)(T* out, const T* a, const T* b, int64_t n, T factor) noexcept;
  void (*scale)(T* p, int64_t n, T factor) noexcept;
  // Largest |p[i]|; infinity if any element is infinite or NaN.
  double (*max_abs)(const T* p, int64_t n) noexcept;
  // out[i] = a[i] * b[i]
  void (*multiply)(T* out, const T* a, const T* b, int64_t n) noexcept;
  // Rows [r0,r1) of LayerNorm over the first `units` of `stride` elements; the weight's pads are 0.
  // stats [.][2]: mean and 1 / sqrt(var + eps) of each row, NaN where the variance overflows.
  void (*norm_forward)(T* out, T* stats, const T* in, int64_t stride, int64_t units,
                       const T* weight, const T* bias, double eps, int64_t r0, int64_t r1) noexcept;
  // Gradient of the rows `in` from d, that of norm_forward's out.
  void (*norm_backward)(T* out, const T* d, const T* in, const T* stats, int64_t stride,
                        int64_t units, const T* weight, int64_t r0, int64_t r1) noexcept;
  // acc_weight[i] += d * (in - mean) / deviation, acc_bias[i] += d, summed over rows = rows-1..0, i
  // in [i0,i1). Either may be null.
  void (*norm_gradient)(T* acc_weight, T* acc_bias, const T* d, const T* in, const T* stats,
                        int64_t stride, int64_t rows, int64_t i0, int64_t i1) noexcept;
  // One row's tangent of norm_forward, from those of the row (`t_in`), weight and bias (null:
  // zero). t_stats [2]: mean of t_in, and mean of its products with the normalised row.
  void (*norm_tangent)(T* out, T* t_stats, const T* t_in, const T* in, const T* stats,
                       int64_t stride, int64_t units, const T* weight, const T* t_weight,
                       const T* t_bias) noexcept;
  // One row's tangent of norm_backward, which gave dx of d; t_d: tangent of d.
  void (*norm_backward_tangent)(T* out, const T* t_d, const T* d, const T* dx, const T* t_in,
                                const T* in, const T* stats, const T* t_stats, int64_t stride,
                                int64_t units, const T* weight, const T* t_weight) noexcept;
  // The tangent of norm_gradient's sums.
  void (*norm_gradient_tangent)(T* acc_weight, T* acc_bias, const T* t_d, const T* d, const T* t_in,
                                const T* in, const T* stats, const T* t_stats, int64_t stride,
                                int64_t rows, int64_t i0, int64_t i1) noexcept;
  // Philox4x32-10 of one counter [4] and key [2]: out [4].
  void (*philox)(const uint32_t* counter, const uint32_t* key, uint32_t* out) noexcept;
  // Rows r = [r0,r1) of out [.][width], row r being sequence r % batch at step t0 + r / batch *
  // t_step: `below` for a unit whose random word is below the threshold, else `above`; pads too.
  void (*mask_rows)(T* out, int64_t width, const MaskStream& stream, int64_t t0, int64_t t_step,
                    int64_t batch, int64_t r0, int64_t r1, T below, T above) noexcept;
  // table[token][i] += factor * (sum of z[r][i] over the token's rows r in list order), i in
  // [i0,i1). next[r]: the row after r in its token's list, -1 at the end; heads[n_distinct]: first
  // rows; tokens[n_distinct].
  void (*scatter_add)(T* table, int64_t table_stride, const int64_t* tokens, const int32_t* heads,
                      int64_t n_distinct, const int32_t* next, const T* z, int64_t z_stride,
                      T factor, int64_t i0, int64_t i1) noexcept;
  // Rows [r0,r1) of logits [.][stride] are replaced by the gradient of weight[r] *
  // cross_entropy(logits, target[r]) * factor; loss[r] gets the weighted loss. A row of weight 0
  // gets zeros, whatever it holds. Pads stay 0.
  void (*cross_entropy)(T* logits, int64_t stride, int64_t classes, const int64_t* target,
                        const T* weight, double factor, double* loss, int64_t r0,
                        int64_t r1) noexcept;
  // z [n] becomes the gradient of weight * sum (z - y)^2 * factor; returns weight * the sum.
  double (*squared_error)(T* z, const T* y, int64_t n, double weight, double factor) noexcept;
};

struct KernelTable {
  Kernels<float> f32;
  Kernels<double> f64;
};

// The tables of the level in use.
const KernelTable& kernel_table() noexcept;
template <class T>
const Kernels<T>& kernels() noexcept;

}  // namespace gradcore
