// One part of a net in a call of gc_run: what it works on, and the stages that a team of threads
// executes together. Steps t count in the part's own order, which may be time backward; time(t) is
// the caller's step.
//
// A segment (the range of an op) is walked in chunks of `chunk` steps; within a chunk every layer
// runs in turn, so arrays between layers are as long as a chunk. Chunks divide blocks of 128
// absolute steps, the unit of weight-gradient sums; looks at the adjoint's size come every 8.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/team.h"
#include "kernels/kernel_table.h"
#include "sequence/network.h"

namespace gradcore {

constexpr int64_t block_steps = 128;
constexpr int64_t look_steps = 8;
constexpr int32_t tile_rows = 4;  // of the recurrent kernels
constexpr int32_t no_exponent =
    INT_MIN;  // of a step at which nothing arrives, of a sum that is still empty

// Adjoints and tangents are brought back when the largest element leaves 2^-20 .. 2^20.
constexpr int band = 20;

// e of x = m * 2^e with 0.5 <= |m| < 1.
inline int exponent_of(double x) {
  int e = 0;
  std::frexp(x, &e);
  return e;
}

// The arrays of one layer. Rows are padded; see kernel_table.h for the packed layouts.
template <class T>
struct LayerWork {
  // packed parameters
  T *w_forward, *w_backward, *bias_h;
  T* w_input;  // [nb*G][ib runs][UB][UB], bias_x [nb*G][UB]; float input
  T* bias_x;
  T* table;      // [I][nb*G*UB] columns of weight_ih with the bias added; token input without an
                 // embedding
  T* w_input_t;  // [ib][nb*G runs][UB][UB]; null if nobody wants the input's gradient
  T* skip_coef;  // [Hp]
  Run *input_runs, *dz_runs;
  // the segment: rows 0..lead-1 of h (row 0 of c) are the state before it
  T *h, *c, *saved;
  T* gates;  // what `saved` is, of a chunk, for the caller's array; null: not wanted
  T* out;    // [S][B][Hp] h + input, residual layers only
  // adjoints
  T *d, *d_copy, *ring, *ring_copy, *dskip;
  // sums of the weight gradients: `part` of the current block, `sum` of all blocks before
  T *part, *sum;
  int64_t sums;  // elements of part and of sum: weight_hh, weight_ih (unless a table), biases
                 // [nb*planes*UB], skip [Hp]
  int64_t at_ih, at_bias, at_skip;
  T* table_sum;  // [I][nb*G*UB]
  // boundaries: n_slots of [lead + states - 1][B][Hp]
  T* slots;
  T* r_mask;  // [B][Hp] factors of h in the recurrent product; null without recurrent dropout
  // reading time backward, ragged sequences with a skip connection: the outputs [lead][B][Hp] of
  // the initial state, which every sequence has just before its first step
  T* start;
};

// What a call with tangents has for each layer beside LayerWork. K tangents of sequence b are rows
// b * K + k; `length` is that of the rows that are kept (tangent_length()).
template <class T>
struct TangentWork {
  // tangents of parameters, null without: [K] packed as Kernels::dense takes them
  T *w_hh, *w_ih, *w_hh_t, *w_ih_t;
  T* table;              // [K][I][nb*G*UB], bias included
  T *bias_h, *bias_x;    // [K][nb*G*UB]
  T* skip_coef;          // [K][Hp] of a learned one
  Run *h_runs, *z_runs;  // of rows of h; of rows of dz, the recurrent planes
  // as in LayerWork, rows of B*K
  T *h, *c, *saved, *out, *slots, *start;
  // Hessian only (K == 1)
  T *d, *ring, *dskip, *part, *sum, *table_sum;
};

// 2^n, 0 where that underflows.
template <class T>
T power_of_two(int64_t n) {
  return static_cast<T>(std::ldexp(T(1), static_cast<int>(n < -5000  ? -5000
                                                          : n > 5000 ? 5000
                                                                     : n)));
}

// The arrays through which this part and the next meet; null in the last part.
template <class T>
struct Link {
  T* out;                         // [T][B][part.width]
  const T* d_out;                 // [T][B][part.width], null without backward
  const int32_t* d_out_exponent;  // [T] no_exponent where all is zero
  // dx_exponent says no_exponent where dx is zero, and the other direction's dx and gradients of
  // what comes before the layer are there already: add to them.
  bool marks_zeros, joins;
  // Tangents: of out, with this direction's exponents; of what this part reads, columns from
  // t_in_split on having the exponents t_in_exponent[1]; of d_out and dx. Null without.
  T* t_out;                         // [T][B][K][part.width]
  int32_t* t_out_exponent;          // [T]
  const T* t_in;                    // [T][B][K][I]
  const int32_t* t_in_exponent[2];  // [T] no_exponent where all is zero
  int64_t t_in_split;
  const T* t_d_out;  // [T][B][part.width]
  T* t_dx;           // [T][B][I]
};

// Shared by the parts of a call.
struct Progress {
  int64_t done, total, last_poll_ns;
};

// A transform of the rows that a layer or the head reads: what it works on in a call.
template <class T>
struct TransformWork {
  const Transform* what;
  int64_t stride;            // I padded
  T *weight, *bias, *stats;  // LayerNorm: packed [stride]; of the chunk [rows][2]
  T* mask;                   // dropout: factors of the chunk [rows][stride]
  T* out;                    // [rows][stride] of the chunk
  T* d;                      // [rows][stride] gradient of out
  // Tangents: of weight and bias [K][stride], null where they have none; of the chunk: what
  // norm_tangent leaves [rows*K][2], of out [rows*K][stride], of d [rows][stride].
  T *t_weight, *t_bias, *t_stats, *t_out, *t_d;
  int64_t at_weight, at_bias;  // of their sums among those of what reads the rows; -1: no parameter
};

// What a layer's cotangents live in; rows = B * K, row b * K + k is direction k.
template <class T>
struct DirectionWork {
  T* d;       // [states][rows][Hp] cotangents
  T* ring;    // [lead][rows][Hp], skip connections only
  T* masked;  // [rows][Hp], recurrent dropout only
};

// Numbers of random streams, in gradcore.h.
enum class MaskKind : uint32_t { dropout = 0, zoneout = 1, zoneout_cell = 2, recurrent = 3 };

// What a thread keeps for itself; every thread of a team comes to the same values.
template <class T>
struct Member {
  int me, team_size;
  Team* team;
  int parity;
  int32_t* exponent;       // [layers] of the adjoint: the true one is d * 2^exponent
  int32_t* part_exponent;  // [layers] of the current block's sums
  int32_t* sum_exponent;  // [layers] of the finished blocks' sums, then of the token sums: table or
                          // embedding
  double* look;           // [layers] largest |d| at the last look
  int32_t *trace_in, *trace_out;  // [chunk] exponents of dy and of dz, dx by step
  T* dy_factor;                   // [chunk]
  int32_t direction_exponent;     // of cotangents
  int32_t tangent_exponent;       // of all tangents of the part
  double tangent_look;            // largest tangent of a state at the last look
  const T* t_dy;                  // tangent of the gradient that arrives at the layer at work
  int t_turn;                     // which of t_dy_ is free
};

enum class Verdict : int { go_on = 0, one_thread = 1, stop = 2 };

template <class T>
class Job {
 public:
  // Checks the plan, whose operations are all this part's, and which arrays are there; throws
  // Error(GC_INVALID).
  Job(const Part& part, gc_call& call, const Link<T>& link, Progress& progress);
  // Bytes of the arena.
  int64_t bytes();
  // Executes the next n operations of the plan; throws Error.
  void run(int64_t n);
  // Gives the arena back; nothing can be run after it.
  void release() noexcept { arena_.reset(); }
  double loss() const;
  // Where backward has been: e of the largest gradient of a parameter 0.5 <= |m| < 1, m * 2^e, or
  // INT64_MIN if all are zero; and the gradients themselves, times 2^-exponent.
  int64_t gradient_exponent() const;
  void unpack_gradients(int64_t exponent);
  // The tangent of the gradients, of a Hessian.
  void unpack_product();

 private:
  static constexpr int UB = unit_block<T>;
  using Me = Member<T>;

  // validate.cpp
  void check_plan();
  void check_presence();
  void check_tangents() const;
  void check_sizes() const;
  void check_contents();
  int64_t token(int64_t row) const;
  int64_t time(int64_t t) const { return part_.reverse ? T_ - 1 - t : t; }
  bool active(int64_t t, int64_t b) const { return !call_.lengths || time(t) < call_.lengths[b]; }
  // layout.cpp
  void lay_out(Carver& carver);
  void choose_team();
  // packing.cpp
  void pack(const Me& m);
  static T recurrent_weight(const Layer& layer, const T* weight, int64_t g, int64_t u, int64_t k,
                            bool tangent);
  void pack_recurrent(const Me& m, int l);
  void pack_input(const Me& m, int l);
  void pack_head(const Me& m);
  // Where packed sums go and with which power of two: of the layers, and of the token sums.
  struct Unpacking {
    T* grads;
    int64_t shift, table_shift;
  };
  void unpack_layer(int l, const T* sum, const T* table_sum, const Unpacking& to);
  void unpack_head(const T* sum, const Unpacking& to);
  void unpack_embedding(const T* sum, const Unpacking& to);
  // boundary.cpp: states between segments and at both ends
  void load_start(int l);
  void load_slot(int l, int slot);
  void save_slot(int l, int slot, int64_t n);
  void carry_over(int l, int64_t n);
  void capture_state(int l, int64_t t0, int64_t t1);
  void gather_dstate(int l, const T* d, const T* ring, T* state) const;
  void write_dstate(const Me& m, int l);
  void find_resets();
  void mirror_masks();
  // team.cpp
  // f(share) for each part of layer l that this thread computes; in lockstep with the others, part
  // by part, if by_units.
  template <class F>
  void each_share(const Me& m, int l, F f) const;
  void barrier(const Me& m) const { m.team->wait(m.me); }
  double reduce_max(Me& m, double value);
  void rows_of(const Me& m, int64_t n, int64_t& r0, int64_t& r1) const;
  Verdict verdict(Me& m);
  // plan.cpp
  void start();
  void execute(Me& m, int64_t last);
  void follow(Me& m);
  bool forward_op(Me& m, const gc_op& op);
  bool backward_op(Me& m, const gc_op& op);
  void start_segment(const Me& m, const gc_op& op);
  void poll(Team& team);
  struct Offender;
  [[noreturn]] void report(const Offender& o);
  // forward.cpp
  LayerView<T> view(int l, int64_t first) const;
  // What layer l reads in this chunk, stride Ip; of l = n_layers what the head reads.
  const T* input_rows(int l, int64_t first) const;
  const T* output_rows(int l, int64_t first) const;
  void stage_input(const Me& m, int64_t first, int64_t n);
  void input_product(const Me& m, int l, int64_t first, int64_t n);
  void store_gates(const Me& m, int l, int64_t first, int64_t n);
  void forward_layer(const Me& m, int l, int64_t first, int64_t n, bool tape);
  void check_finite(const Me& m, int l, int64_t first, int64_t n);
  void pass_on(const Me& m, int64_t first, int64_t n);
  // between.cpp: what acts on rows between layers, and random masks
  void choose_transforms();
  void lay_out_transforms(Carver& carver, int l, int64_t stride);
  void place_sums(int l, int64_t& sums);
  void lay_out_masks(Carver& carver);
  void pack_transforms(const Me& m);
  bool masks_inside(int l) const;
  bool trains_transforms(int l) const;
  MaskStream stream(int32_t place, MaskKind kind, double p, bool reverse = false) const;
  const T* raw_rows(int l, int64_t first) const;
  void transform_rows(int l, int64_t first, int64_t r0, int64_t r1);
  void prepare_masks(const Me& m, int l, int64_t first, int64_t n, bool backward);
  void transforms_backward(int l, int64_t first, int64_t r0, int64_t r1, T* to);
  void transform_gradients(const Me& m, int l, int64_t first, int64_t i0, int64_t i1, T* part);
  void unpack_transforms(int l, const T* sums, T* grads, int64_t shift);
  // head.cpp
  double total_weight() const;
  T row_weight(int64_t t, int64_t b) const;
  bool loss_at_all(int64_t first, int64_t n) const;
  void logits(int64_t first, int64_t r0, int64_t r1);
  void copy_outputs(T* base, int64_t origin, int64_t first, int64_t r0, int64_t r1);
  void loss_rows(int64_t first, int64_t r0, int64_t r1);
  // Whether the loss is a sum of terms that this part knows.
  bool has_terms() const {
    return call_.loss != GC_LOSS_NONE && call_.loss != GC_LOSS_CALLBACK &&
           call_.loss != GC_LOSS_GIVEN;
  }
  void given_rows(int64_t first, int64_t r0, int64_t r1);
  void sum_loss(int64_t first, int64_t n);
  void emit(const Me& m, int64_t first, int64_t n);
  bool call_loss(Me& m, int64_t t0, int64_t t1);
  const T* backward_head(Me& m, int64_t first, int64_t n);
  // directions.cpp
  void lay_out_directions(Carver& carver);
  // Where a layer's part of direction k begins in flat states.
  int64_t state_place(const Layer& layer, int64_t k) const {
    return (k * net_.state_size + layer.state_offset) * B_;
  }
  void direction_rows_of(const Me& m, int64_t& r0, int64_t& r1) const;
  int64_t ring_slot(const Layer& layer, int64_t end, int64_t r) const;
  int64_t end_of(int64_t b) const;
  bool cleared_at_end(const Layer& layer, int64_t b, int64_t r) const;
  void load_final(const Layer& layer, T* d, T* ring) const;
  void load_final_adjoint(int l);
  void load_directions(int l);
  void store_directions(int l);
  bool directions_enter() const;
  void scale_directions(int64_t r0, int64_t r1, T factor);
  double largest_direction(int64_t r0, int64_t r1, bool with_ring) const;
  void adjust_directions(Me& m, int64_t first, int64_t r0, int64_t r1);
  void start_directions(Me& m, int64_t r0, int64_t r1);
  // cotangents.cpp
  bool cotangent_op(Me& m, const gc_op& op);
  const T* cotangent_head(Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, T factor);
  void cotangent_chain(int l, int64_t first, int64_t n, int64_t r0, int64_t r1, T* d);
  void cotangent_layer(Me& m, int l, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* dy,
                       T* dx);
  void store_cotangents(const Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* dx);
  // backward.cpp
  void start_backward(Me& m);
  void gather_arriving(const Me& m, const T* from, int64_t first, int64_t n, T* rows) const;
  const T* arriving(Me& m, int64_t first, int64_t n);
  void backward_layer(Me& m, int l, int64_t first, int64_t n, const T* dy, T* dx);
  int64_t exponent_spread(const Me& m, int l, bool arrives, int64_t i0, int64_t i1) const;
  double walk_steps(Me& m, LayerView<T> v, int l, int64_t i0, int64_t i1);
  void walk_adjoint(Me& m, const LayerView<T>& v, int l, int64_t n);
  bool records(int l) const;
  void write_record(const Me& m, int64_t first, int64_t n);
  int32_t common_exponent(Me& m, const T* z, int64_t z_stride, int64_t n);
  void adjust(Me& m, int l, int32_t needed);
  void scale_adjoint(const Me& m, int l, T factor);
  double largest_adjoint(const Me& m, int l, int64_t t0, int64_t t1) const;
  double largest_ring(const Me& m, int l) const;
  void copy_adjoint(const Me& m, int l, int64_t t0, int64_t t1, bool back);
  void weight_gradients(Me& m, int l, int64_t first, int64_t n);
  void accumulate(Me& m, int l, int64_t first, int64_t i0, int64_t i1);
  void flush(Me& m, int l);
  void input_gradient(Me& m, int l, int64_t n, const T* dy, T* dx);
  void add_residual(int l, int64_t r0, int64_t r1, const Me& m, const T* dy, T* dx) const;
  void write_dx(const Me& m, int64_t first, int64_t n, const T* dx);
  void backward_chunk(Me& m, int64_t first, int64_t n);
  void link_tokens(int64_t first, int64_t n);
  void scatter_tokens(Me& m, T* table, int64_t width, T* z, int64_t z_stride, const Run* from,
                      int64_t n);

  // tangent.cpp: the forward stages of tangents
  int64_t tangent_length() const;
  bool reads_table(int64_t l) const;
  bool puts_out() const;
  void lay_out_tangents(Carver& carver);
  void lay_out_tangent_chain(Carver& carver, int l);
  void pack_tangents(const Me& m);
  void pack_tangent_layer(int l, int64_t k);
  void pack_tangent_head(int64_t k);
  TangentView<T> tangent_view(int l, int64_t first) const;
  bool tangent_enters(int l) const;
  T* tangent_raw_rows(int l, int64_t first) const;
  T* tangent_input_rows(int l, int64_t first) const;
  T* tangent_output_rows(int l, int64_t first) const;
  void pack_tangent_factors(T factor);
  void stage_tangents(const Me& m, int64_t first, int64_t r0, int64_t r1);
  void transform_tangents(int l, int64_t first, int64_t r0, int64_t r1);
  void tangent_input_product(const Me& m, int l, int64_t first, int64_t r0, int64_t r1);
  void tangent_recurrent_product(const Me& m, int l, int64_t first, int64_t r0, int64_t r1);
  void add_room(T* to, int64_t width, int64_t k, int64_t r0, int64_t r1, T factor) const;
  Share tangent_share(const Me& m, int l) const;
  void tangent_layer(const Me& m, int l, int64_t first, int64_t n);
  void tangent_logits(const Me& m, int64_t first, int64_t r0, int64_t r1);
  void emit_tangents(const Me& m, int64_t first, int64_t n);
  void pass_tangents_on(const Me& m, int64_t first, int64_t n);
  // tangent_scale.cpp: states of tangents and their exponent
  void start_tangents(Me& m);
  void load_tangent_start(int l);
  void move_tangents(int l, const gc_op& op);
  void save_tangent_slot(int l, int slot, int64_t n);
  void capture_tangents(int l, int64_t t0, int64_t t1, int32_t exponent);
  double largest_tangent(Me& m, int64_t first, int64_t n);
  double largest_tangent_behind(Me& m, int64_t first);
  int32_t tangent_source(Me& m, int64_t first, int64_t n);
  void scale_tangents(const Me& m, int64_t first, T factor);
  void adjust_tangents(Me& m, int64_t first, int64_t n);
  void forward_layers(Me& m, const gc_op& op, int64_t first, int64_t n);
  void forward_chunk(Me& m, const gc_op& op, int64_t first, int64_t n);
  void finish_tangents(Me& m, int64_t first, int64_t n);
  void fold_tangent_state(int l, int32_t exponent);
  // curvature.cpp: Hessian and Gauss-Newton products
  void lay_out_curvature(Carver& carver);
  void start_curvature();
  void bend_loss(int64_t first, int64_t r0, int64_t r1);
  void bend_row(int64_t first, int64_t r);
  void curvature_head(Me& m, int64_t first, int64_t n, bool any);
  void curvature_arriving(Me& m, int64_t first, int64_t n, bool any);
  void curvature_layer(Me& m, int l, int64_t first, int64_t n, const T* dy, const T* dx);
  void curvature_transforms(int l, int64_t first, int64_t r0, int64_t r1, const T* d_in, T* to);
  void curvature_transform_sums(const Me& m, int l, int64_t first, int64_t n, T* part);
  void curvature_sums(Me& m, int l, int64_t first, int64_t n);
  void write_tangent_dx(const Me& m, int64_t first, int64_t n, const T* t_dx);

  const Part& part_;
  const Network& net_;
  gc_call& call_;
  const Link<T> link_;
  Progress& progress_;
  const Kernels<T>& k_;
  int64_t T_, B_, L_;     // steps, sequences, layers
  int64_t chunk_, rows_;  // steps of a chunk, its rows chunk * B
  int64_t segment_;       // longest range of an op
  bool trains_ = false, tape_ = false, emits_ = false;
  bool directs_ = false;  // cotangents
  bool wants_input_gradient_ = false;
  bool direct_input_ = false;  // x is read where it lies
  int threads_ = 1;
  bool by_units_[64];  // per layer: threads own units, else sequences
  int64_t min_length_ = INT64_MAX;
  const uint8_t* reset_ = nullptr;  // [T, B] in the part's order
  uint8_t* mirrored_reset_ = nullptr;
  int64_t *begins_ = nullptr, max_begin_ = 0;  // [B] where ragged sequences begin, time backward

  std::vector<LayerWork<T>> work_;
  std::vector<DirectionWork<T>> direction_work_;
  // Rows of a few steps: between layers, [2], all of one width between two barriers; of the
  // outputs.
  T *direction_rows_[2] = {}, *direction_logits_ = nullptr, *direction_dz_ = nullptr;
  std::vector<T*> jacs_;  // by thread: local Jacobians of a step
  std::vector<Member<T>> members_;
  std::vector<std::vector<TransformWork<T>>> chains_;  // those that act in this call, by reader
  uint32_t mask_key_[2] = {};
  T* zone_[2] = {};      // [rows][Hp] of the chunk: zoneout of h and c of the layer at work
  T* masked_ = nullptr;  // [rows + B][Hp] of the chunk: what its recurrent product reads
  int64_t zeros_count_ = 0;
  T* record_ = nullptr;  // [rows][Hp] of the chunk: adjoints of the outputs of the layer asked for
  T *zeros_ = nullptr, *x_rows_ = nullptr, *x_pre_ = nullptr, *dz_ = nullptr, *dy_[2] = {},
    *logits_ = nullptr;
  T *w_head_ = nullptr, *w_head_t_ = nullptr, *bias_head_ = nullptr, *head_part_ = nullptr,
    *head_sum_ = nullptr;
  Run *head_runs_ = nullptr, *logit_runs_ = nullptr;
  int64_t head_at_bias_ = 0, head_sums_ = 0;
  T* embedding_sum_ = nullptr;
  int64_t *row_target_ = nullptr, *distinct_ = nullptr;
  int32_t *token_head_ = nullptr, *token_next_ = nullptr, *heads_ = nullptr, *last_reset_ = nullptr;
  T* row_weight_ = nullptr;
  double *row_loss_ = nullptr, *chunk_loss_ = nullptr;
  T *range_outputs_ = nullptr,
    *range_d_outputs_ = nullptr;  // for a callback: the whole segment, [.][B][O]
  int64_t n_distinct_ = 0;

  // tangents; null without
  int64_t K_ = 0;
  bool hessian_ = false, gauss_newton_ = false;
  int64_t tangent_origin_ = 0;  // the step of the first kept row
  std::vector<TangentWork<T>> tangent_work_;
  T *t_x_rows_ = nullptr, *t_x_pre_ = nullptr, *t_h_pre_ = nullptr, *h_pre_ = nullptr,
    *t_masked_ = nullptr, *t_room_ = nullptr, *t_logits_ = nullptr;
  T *t_w_head_ = nullptr, *t_w_head_t_ = nullptr, *t_bias_head_ = nullptr;
  T *d_steps_ = nullptr, *t_dz_ = nullptr, *t_dy_[2] = {}, *carried_ = nullptr;
  T *t_head_part_ = nullptr, *t_head_sum_ = nullptr, *t_embedding_sum_ = nullptr;

  struct alignas(64) Slot {
    double value[2];
  };
  Slot slots_[max_team];
  struct Offender {
    int64_t layer = INT64_MAX, step = 0, sequence = 0;
    bool adjoint = false, tangent = false;
  };
  Offender offenders_[max_team];
  bool interrupted_ = false, callback_stopped_ = false;
  int64_t op_t0_ = 0, op_steps_ = 0;
  int64_t next_op_ = 0, first_backward_ = INT64_MAX;
  bool seen_backward_ = false, started_backward_ = false;
  std::optional<Arena> arena_;
  double loss_factor_ = 1;  // 1/N of a mean
};

// Threads own unit blocks of all sequences, or all units of some sequences: of one stretch, or,
// where sequences end at different times, of tiles dealt out in turn, so that batches sorted by
// length leave nobody idle.
template <class T>
template <class F>
void Job<T>::each_share(const Me& m, int l, F f) const {
  const auto nb = static_cast<int32_t>(net_.layers[static_cast<size_t>(l)].nb),
             B = static_cast<int32_t>(B_), size = m.team_size;
  if (by_units_[l]) {
    f(Share{nb * m.me / size, nb * (m.me + 1) / size, 0, B, size > 1});
  } else if (call_.lengths && B % (tile_rows * size) == 0) {
    for (int32_t b = tile_rows * m.me; b < B; b += tile_rows * size)
      f(Share{0, nb, b, b + tile_rows, false});
  } else {
    f(Share{0, nb, B * m.me / size, B * (m.me + 1) / size, false});
  }
}

}  // namespace gradcore
