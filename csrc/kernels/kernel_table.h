// The table of kernels that every instruction-set level fills in, and the plain structures that the
// kernels take.
//
// Layouts: UB = 64 / sizeof(T) units form a unit block of one cache line; a layer has nb blocks and
// Hp = nb * UB padded units. All rows are padded to whole blocks, and the padding is 0. A dot at
// the front of a shape, as in [.][B][Hp], stands for the steps of the chunk. Kernels are noexcept
// and check no arguments. They divide work by output elements, never by partial sums: every output
// element is one fma chain in a fixed order, so results do not depend on the number of threads.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>

#include "base/team.h"
#include "cells/options.h"

namespace gradcore {

template <class T>
constexpr int unit_block = 64 / static_cast<int>(sizeof(T));

// A piece of the inner dimension of a dense product that lies contiguously in an input row.
struct Run {
  int32_t offset;  // in elements from the start of the row
  int32_t length;  // 1..UB
};

// The part of a layer that one thread computes: unit blocks [j0,j1) of rows [b0,b1).
struct Share {
  int32_t j0, j1, b0, b1;
  bool by_units;  // other threads compute other units of the same rows, so that every step ends
                  // with a barrier
};

// Unit blocks [j0,j1) of a layer that meet the same unit blocks [k0,k1) of the state.
struct Band {
  int32_t j0, j1, k0, k1;
};

// A stream of random words for masks of units: the outputs of Philox for the counters (unit / 4, b,
// t, stream). The mask applies to a unit whose word is below `threshold`, which encodes its
// probability.
struct MaskStream {
  uint32_t key[2];
  uint32_t stream;
  uint32_t threshold;
};

// The arrays and sizes that the recurrent kernels of one layer work on. Pointers refer to the
// chunk's first step, `first`, and steps i are counted from it. Rows are sequences.
template <class T>
struct LayerView {
  int64_t first;  // absolute number of the chunk's first step
  int64_t B;      // sequences
  int32_t H, nb;  // units, unit blocks
  CellOptions options;
  int32_t skip_kind;  // gc_skip
  int64_t skip_lag;

  int32_t recurrent;    // gc_recurrent: what the state is multiplied by
  int32_t n_bands;      // of all unit blocks, in order; a product runs over those of its band only
  const Band* bands;    // [n_bands]
  int64_t w_inputs;     // units of the state in the packed weights of a unit block: H, or those of
  int64_t w_outputs;    // the widest band; the same for the transposed product: Hp, or as before
  const T* w_forward;   // [nb][w_inputs][gates][UB] weight_hh, grouped by unit block of the output;
                        // GC_RECURRENT_DIAGONAL: [nb][gates][UB]
  const T* w_backward;  // [nb][gates][w_outputs][UB], or [nb][w_outputs][gates][UB] if interleaved:
                        // weight_hh^T, grouped by unit block of its output; GC_RECURRENT_DIAGONAL:
                        // as w_forward
  const T* bias_h;      // [nb][gates][UB]
  const T* skip_coef;   // [Hp] coefficient of the skip connection: s if it adds, a if it mixes
  bool interleaved;     // true if B == 1: a row then reads the gates of a unit side by side

  const int64_t* lengths;  // [B] or null
  const int64_t* begins;   // [B] or null: sequence b takes part from step begins[b] on (layers that
                           // read time backward)
  const uint8_t* reset;    // [T, B] for the whole call, or null: where nonzero, the state is set to
                           // zero before the step
  const int32_t* last_reset;  // [T, B] for the whole call: the latest reset at or before step t, or
                              // INT32_MIN; null if there are no resets or no skip connection
  int64_t min_length;         // smallest length; all rows are active before this step
  int64_t max_begin;          // largest of begins; all rows are active from this step on

  T* h;  // [.][B][Hp] in/out: entry 0 is the state before `first`; entries -lag+1..-1 are earlier
         // outputs
  T* r;  // [.][B][Hp] the operand of the recurrent product: h itself, or with r_mask, in/out, a
         // copy of h times the mask, where entry 0 belongs to entry 0 of h
  T* c;  // [.][B][Hp] in/out: the second state, c of the LSTM
  int64_t c_stride;  // distance in elements from a state behind h to the next one
  const T* zeros;    // [Hp] zeros
  const T* start;    // [lag][B][Hp] with begins and a skip connection: the outputs before a
                     // sequence's first step; null if they are zero or there is no skip connection
  T* saved;  // [.][B][nb][cell saved][UB] out: what the cell keeps for backward; null if nothing is
             // kept
  const T* x_pre;  // [.][B][nb][gates][UB] in: the input product plus its bias
  // Masks, null where there are none. zone_h and zone_c say which part of a state keeps its value
  // from before the step (zoneout); r_mask multiplies h before the recurrent product.
  const T *zone_h, *zone_c;  // [.][B][Hp] in
  const T* r_mask;           // [B][Hp] in
  T* h_pre;  // [.][B][nb][gates][UB] out: the recurrent product plus its bias, kept for tangents;
             // null if not needed

  // The fields below are for the backward pass only.
  T* d;     // [states][B][Hp] in/out: adjoint of the state, times a power of two
  T* ring;  // [lag][B][Hp] in/out: adjoints that skip connections send to step t - lag, in entry t
            // mod lag
  T* dz;    // [.][B] rows of [nb][planes][UB] at a distance of z_row elements, out: adjoints of the
            // pre-activations
  int64_t z_row;
  T* dskip;  // [.][B][Hp] out: terms of the gradient of the learned skip coefficient; null if none
             // is learned
  const T* dy;  // [.][B][Hp] in: gradient of the loss with respect to the layer's outputs; null if
                // there is none
  const T* dy_factor;  // [.] power of two that brings dy to the scale of d
  T* record;   // [.][B][Hp] out: total adjoint of each step's output, all paths included; null if
               // not needed
  T* d_steps;  // [.][states][B][Hp] out: adjoint of the state after each step, with all paths that
               // reach h, kept for tangents; null if not needed
};

// The additional arrays of the cotangent kernels. Row r = b * K + k is cotangent k of sequence b.
// Pointers are null where there is no such array.
template <class T>
struct CotangentView {
  int64_t K, rows;  // cotangents per sequence; B * K
  T* jac;           // this thread's own: [sequences of its rows][nb][local_entries][UB]
  T* masked;        // [rows][Hp] r_mask, repeated for every cotangent of a sequence
  T* ring;          // [lag][rows][Hp] in/out: as LayerView::ring
  T* d;             // [states][rows][Hp] in/out: adjoint of the state
  T* dz;            // [.][rows] out: as LayerView::dz
  const T* dy;      // [.][rows][Hp] in: cotangent of the layer's outputs
};

// The additional arrays of the tangent kernels, for the same chunk as the LayerView. Row b * K + k
// is tangent k of sequence b; all tangents share one scale. A null pointer stands for a zero
// tangent unless stated otherwise.
template <class T>
struct TangentView {
  int32_t K;
  const T* x_pre;      // [.][B*K][nb][gates][UB] in: tangents of LayerView::x_pre
  const T* h_pre;      // same shape, in: contribution of the tangents of weight_hh and bias_hh
  const T* skip_coef;  // [K][Hp] in
  const T* start;      // [lag][B*K][Hp] in: tangents of LayerView::start
  // [.][B*K][Hp] in/out, as in LayerView: entry 0 is the state before the first step, entries
  // -lag+1..-1 are earlier outputs.
  T *h, *r, *c;
  int64_t c_stride;  // as in LayerView
  T* saved;  // [.][B][nb][cell saved][UB] out of forward, in of backward (K == 1); null if not kept

  // The fields below are for the backward pass only, where K == 1.
  T* d;              // [states][B][Hp] in/out: tangent of the adjoint
  T* ring;           // [lag][B][Hp] in/out
  T* dz;             // [.][B][nb][planes][UB] out
  T* dskip;          // [.][B][Hp] out; null if no skip coefficient is learned
  const T* dy;       // [.][B][Hp] in
  const T* carried;  // [.][B][Hp] in: dz times the tangent of weight_hh
};

// The sizes of a cell, which are the same for both precisions.
struct CellShape {
  int32_t gates, states, saved, planes;
  int32_t input_plane[4];
  bool antisymmetric;  // the recurrent matrix is A - A' - diffusion * I, where A is weight_hh
  bool keeps_gates;    // the first saved values are the activations of the gates
};

template <class T>
struct CellKernels : CellShape {
  // Computes steps [i0,i1) of the chunk. Ends with a barrier if share.by_units.
  void (*forward)(const LayerView<T>&, int64_t i0, int64_t i1, const Share&, Team&,
                  int me) noexcept;
  // Goes back over steps i1-1 down to i0; d is then the adjoint of the state before step i0. There
  // is no barrier at the end.
  void (*backward)(const LayerView<T>&, int64_t i0, int64_t i1, const Share&, Team&,
                   int me) noexcept;
  int32_t local_entries;  // entries of a unit's local Jacobian in CotangentView::jac
  // Backpropagates the cotangents of rows [r0,r1) over steps i1-1 down to i0. Rows are independent,
  // so that there is no barrier.
  void (*cotangent)(const LayerView<T>&, const CotangentView<T>&, int64_t i0, int64_t i1,
                    int64_t r0, int64_t r1) noexcept;
  // Computes the tangents of steps [i0,i1), after `forward` has run with h_pre kept; share.b0 and
  // b1 count rows of B*K. Ends with a barrier if share.by_units.
  void (*tangent_forward)(const LayerView<T>&, const TangentView<T>&, int64_t i0, int64_t i1,
                          const Share&, Team&, int me) noexcept;
  // Computes the tangents of the adjoints of steps i1-1 down to i0, after `backward` has run with
  // d_steps kept; K == 1.
  void (*tangent_backward)(const LayerView<T>&, const TangentView<T>&, int64_t i0, int64_t i1,
                           const Share&, Team&, int me) noexcept;
  // acc[j][k][g][UB] += sum over rows r = rows-1..0 of a[r][k] * dz[r][j][plane(g)][UB], for unit
  // blocks [j0,j1) and inputs [k0,k1) of K. The planes are 0..gates-1 for recurrent weights and
  // input_plane[] for input weights.
  void (*outer_recurrent)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                          int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                          int64_t k1) noexcept;
  void (*outer_input)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                      int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                      int64_t k1) noexcept;
};

// A sum over the sizes of the structures that kernels read, by which a library notices that a
// plug-in was compiled with others.
template <class T>
constexpr int32_t sum_of_sizes() {
  return static_cast<int32_t>(sizeof(CellKernels<T>) + 3 * sizeof(LayerView<T>) +
                              5 * sizeof(TangentView<T>) + 7 * sizeof(CotangentView<T>) +
                              11 * sizeof(CellOptions) + 13 * sizeof(Share) + 17 * sizeof(Team));
}

#define GRADCORE_CELL(...) +1
constexpr int cell_count =
#include <gradcore/cells.def>
    ;
#undef GRADCORE_CELL

// The kernels of a registered cell for the level in use; null if it has none of this precision.
template <class T>
const CellKernels<T>* registered_kernels(int32_t cell) noexcept;
// The sizes of any cell by its number, which must exist.
const CellShape& cell_shape(int32_t cell) noexcept;
// Whether the cell can run in this precision at the level in use.
bool cell_runs(int32_t cell, gc_dtype dtype) noexcept;
// The facts of a registered cell; null if there is no such cell.
const gc_cell_facts* registered_facts(int32_t cell) noexcept;

// The kernels of every cell, by its number in gc_cell or a registered one's.
template <class T>
struct CellTable {
  const CellKernels<T>* by_number[cell_count];
  const CellKernels<T>& operator[](int32_t cell) const noexcept {
    return cell < cell_count ? *by_number[cell] : *registered_kernels<T>(cell);
  }
};

template <class T>
struct Kernels {
  CellTable<T> cells;

  // out[r][j][UB] = bias[j][UB] + sum over runs q and elements e of in[r][runs[q].offset + e] *
  // w[j][q][e][UB], for rows [r0,r1) and output blocks [j0,j1). bias may be null.
  void (*dense)(T* out, int64_t out_stride, const T* w, const T* bias, const T* in,
                int64_t in_stride, const Run* runs, int64_t n_runs, int64_t r0, int64_t r1,
                int32_t j0, int32_t j1) noexcept;
  // The same as CellKernels::outer_* with one gate and one plane.
  void (*outer_dense)(T* acc, const T* a, int64_t a_stride, int64_t K, const T* dz,
                      int64_t dz_stride, int64_t rows, int32_t j0, int32_t j1, int64_t k0,
                      int64_t k1) noexcept;
  // acc[i] += sum over rows r = rows-1..0 of z[r][i] for i in [i0,i1), a whole number of vectors.
  void (*column_sum)(T* acc, const T* z, int64_t z_stride, int64_t rows, int64_t i0,
                     int64_t i1) noexcept;
  // acc[j][g][UB] += sum over rows r = rows-1..0 of a[r][j][UB] * z[r][j][g][UB], for unit blocks
  // [j0,j1) and gates g; z has `planes` planes per unit block.
  void (*sum_of_products)(T* acc, const T* a, int64_t a_stride, const T* z, int64_t z_stride,
                          int32_t gates, int32_t planes, int64_t rows, int32_t j0,
                          int32_t j1) noexcept;
  // total = total * keep + part * add; part = 0. n is a multiple of UB.
  void (*add_block)(T* total, T* part, int64_t n, T keep, T add) noexcept;
  // out[i] = a[i] + b[i] * factor
  void (*add_scaled)(T* out, const T* a, const T* b, int64_t n, T factor) noexcept;
  void (*scale)(T* p, int64_t n, T factor) noexcept;
  // Returns the largest |p[i]|, or infinity if any element is infinite or NaN.
  double (*max_abs)(const T* p, int64_t n) noexcept;
  // out[i] = a[i] * b[i]
  void (*multiply)(T* out, const T* a, const T* b, int64_t n) noexcept;
  // Applies LayerNorm to rows [r0,r1), over the first `units` of `stride` elements; the padding of
  // `weight` must be 0. stats [.][2] gets the mean and 1 / sqrt(var + eps) of each row, NaN where
  // the variance overflows.
  void (*norm_forward)(T* out, T* stats, const T* in, int64_t stride, int64_t units,
                       const T* weight, const T* bias, double eps, int64_t r0, int64_t r1) noexcept;
  // Computes the gradient of norm_forward's input rows from d, the gradient of its output.
  void (*norm_backward)(T* out, const T* d, const T* in, const T* stats, int64_t stride,
                        int64_t units, const T* weight, int64_t r0, int64_t r1) noexcept;
  // acc_weight[i] += d * (in - mean) / deviation and acc_bias[i] += d, summed over rows = rows-1..0
  // for i in [i0,i1). Either may be null.
  void (*norm_gradient)(T* acc_weight, T* acc_bias, const T* d, const T* in, const T* stats,
                        int64_t stride, int64_t rows, int64_t i0, int64_t i1) noexcept;
  // Computes one row's tangent of norm_forward from the tangents of the row (`t_in`), the weight
  // and the bias; null stands for zero. t_stats [2] gets the mean of t_in and the mean of t_in
  // times the normalised row.
  void (*norm_tangent)(T* out, T* t_stats, const T* t_in, const T* in, const T* stats,
                       int64_t stride, int64_t units, const T* weight, const T* t_weight,
                       const T* t_bias) noexcept;
  // Computes one row's tangent of norm_backward; dx is the gradient which that made of d, and t_d
  // the tangent of d.
  void (*norm_backward_tangent)(T* out, const T* t_d, const T* d, const T* dx, const T* t_in,
                                const T* in, const T* stats, const T* t_stats, int64_t stride,
                                int64_t units, const T* weight, const T* t_weight) noexcept;
  // Computes the tangent of norm_gradient's sums.
  void (*norm_gradient_tangent)(T* acc_weight, T* acc_bias, const T* t_d, const T* d, const T* t_in,
                                const T* in, const T* stats, const T* t_stats, int64_t stride,
                                int64_t rows, int64_t i0, int64_t i1) noexcept;
  // Applies a gc_activation to rows [r0,r1), over the first `units` of `stride` elements; the
  // padding of the result is 0.
  void (*activate)(T* out, const T* in, int64_t stride, int64_t units, int32_t function, int64_t r0,
                   int64_t r1) noexcept;
  // out[i] = d[i] * slope of the function at in[i]: gradients and tangents. The padding of d must
  // be 0.
  void (*activation_slope)(T* out, const T* d, const T* in, int64_t n, int32_t function) noexcept;
  // The tangent of activation_slope for the tangents t_d of d and t_in of in.
  void (*activation_curve)(T* out, const T* t_d, const T* d, const T* t_in, const T* in, int64_t n,
                           int32_t function) noexcept;
  // Computes Philox4x32-10 for one counter [4] and key [2]: out [4].
  void (*philox)(const uint32_t* counter, const uint32_t* key, uint32_t* out) noexcept;
  // Fills rows [r0,r1) of out [.][width]. Row r belongs to sequence r % batch at step t0 + r /
  // batch * t_step. A unit whose random word is below the threshold gets `below`, any other
  // `above`; so does the padding.
  void (*mask_rows)(T* out, int64_t width, const MaskStream& stream, int64_t t0, int64_t t_step,
                    int64_t batch, int64_t r0, int64_t r1, T below, T above) noexcept;
  // table[token][i] += factor * (sum of z[r][i] over the rows r of the token, in list order), for i
  // in [i0,i1). tokens [n_distinct] are the chunk's different tokens, heads [n_distinct] their
  // first rows, and next[r] the row after r in its token's list, or -1 at the end.
  void (*scatter_add)(T* table, int64_t table_stride, const int64_t* tokens, const int32_t* heads,
                      int64_t n_distinct, const int32_t* next, const T* z, int64_t z_stride,
                      T factor, int64_t i0, int64_t i1) noexcept;
  // out[r] = start + sum over taps of table[index[r][tap]], in ascending order, for rows [r0,r1) of
  // `stride` elements each; an index below 0 stands for a row of zeros.
  void (*gather_rows)(T* out, int64_t stride, const T* start, const T* table, const int32_t* index,
                      int64_t taps, int64_t r0, int64_t r1) noexcept;
  // table[index[r][tap]][i] += factor * z[r][i] for rows r = rows-1..0 and all taps, for i in
  // [i0,i1).
  void (*scatter_rows)(T* table, int64_t stride, const int32_t* index, int64_t taps, const T* z,
                       int64_t rows, T factor, int64_t i0, int64_t i1) noexcept;
  // Replaces rows [r0,r1) of logits [.][stride] by the gradient of weight[r] *
  // cross_entropy(logits, target[r]) * factor and sets loss[r] to the weighted loss. A row of
  // weight 0 becomes zero, whatever it holds. The padding stays 0.
  void (*cross_entropy)(T* logits, int64_t stride, int64_t classes, const int64_t* target,
                        const T* weight, double factor, double* loss, int64_t r0,
                        int64_t r1) noexcept;
  // Replaces z [n] by the gradient of weight * sum (z - y)^2 * factor; returns weight * sum (z -
  // y)^2.
  double (*squared_error)(T* z, const T* y, int64_t n, double weight, double factor) noexcept;
};

struct KernelTable {
  Kernels<float> f32;
  Kernels<double> f64;
};

// The tables of the instruction-set level in use.
const KernelTable& kernel_table() noexcept;
template <class T>
const Kernels<T>& kernels() noexcept;

}  // namespace gradcore
