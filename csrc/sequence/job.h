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

// 2^n, 0 where that underflows.
template <class T>
T power(int64_t n) {
  return static_cast<T>(std::ldexp(T(1), static_cast<int>(std::clamp<int64_t>(n, -5000, 5000))));
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
  T* out;  // [S][B][Hp] h + input, residual layers only
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

// The arrays through which this part and the next meet; null in the last part.
template <class T>
struct Link {
  T* out;                         // [T][B][part.width]
  const T* d_out;                 // [T][B][part.width], null without backward
  const int32_t* d_out_exponent;  // [T] no_exponent where all is zero
  // dx_exponent says no_exponent where dx is zero, and the other direction's dx and gradients of
  // what comes before the layer are there already: add to them.
  bool marks_zeros, joins;
};

// Shared by the parts of a call.
struct Progress {
  int64_t done, total, last_poll_ns;
};

// A transform of the rows that a layer or the head reads: what it works on in a call.
template <class T>
struct TransformWork {
  const Transform* what;
  int64_t stride;              // I padded
  T *weight, *bias, *stats;    // LayerNorm: packed [stride]; of the chunk [rows][2]
  T* mask;                     // dropout: factors of the chunk [rows][stride]
  T* out;                      // [rows][stride] of the chunk
  T* d;                        // [rows][stride] gradient of out
  int64_t at_weight, at_bias;  // of their sums among those of what reads the rows; -1: no parameter
};

// What a layer's tangents and cotangents live in; rows = B * K, row b * K + k is direction k.
template <class T>
struct DirectionWork {
  T *h, *c;   // tangents of a few steps: row 0 is before them
  T* out;     // [.][rows][Hp] tangents of h + input, residual layers only
  T* d;       // [states][rows][Hp] cotangents
  T* ring;    // [lead][rows][Hp], skip connections only
  T* masked;  // [rows][Hp], recurrent dropout only
  // directions of the parameters, packed for Kernels::dense
  T *w_input, *bias_x, *w_recurrent, *bias_h, *d_skip;
  int64_t input_size;  // elements of w_input per direction
  Run* state_runs;
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
  int32_t direction_exponent;     // of tangents or cotangents
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

 private:
  static constexpr int UB = unit_block<T>;
  using Me = Member<T>;

  // validate.cpp
  void check_plan();
  void check_presence();
  void check_contents();
  int64_t token(int64_t row) const;
  int64_t time(int64_t t) const { return part_.reverse ? T_ - 1 - t : t; }
  bool active(int64_t t, int64_t b) const { return !call_.lengths || time(t) < call_.lengths[b]; }
  // layout.cpp
  void lay_out(Carver& carver);
  void choose_team();
  // packing.cpp
  void pack(const Me& m);
  void pack_recurrent(const Me& m, int l);
  void pack_input(const Me& m, int l);
  void pack_head(const Me& m);
  void unpack_layer(int l, int64_t exponent);
  void unpack_head(int64_t exponent);
  void unpack_embedding(int64_t exponent);
  // boundary.cpp: states between segments and at both ends
  void load_start(int l);
  void load_slot(int l, int slot);
  void save_slot(int l, int slot, int64_t n);
  void carry_over(int l, int64_t n);
  void capture_state(int l, int64_t t0, int64_t t1);
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
  void unpack_transforms(int l, const T* sums, int64_t shift);
  // head.cpp
  double total_weight() const;
  T row_weight(int64_t t, int64_t b) const;
  bool loss_at_all(int64_t first, int64_t n) const;
  void logits(int64_t first, int64_t r0, int64_t r1);
  void copy_outputs(T* base, int64_t origin, int64_t first, int64_t r0, int64_t r1);
  void loss_rows(int64_t first, int64_t r0, int64_t r1);
  void loss_rows_of_range(int64_t first, int64_t r0, int64_t r1);
  void sum_loss(int64_t first, int64_t n);
  void emit(const Me& m, int64_t first, int64_t n);
  bool call_loss(Me& m, int64_t t0, int64_t t1);
  const T* backward_head(Me& m, int64_t first, int64_t n);
  // directions.cpp
  void lay_out_directions(Carver& carver);
  int64_t direction_width() const;
  void direction_rows_of(const Me& m, int64_t& r0, int64_t& r1) const;
  void pack_directions(const Me& m);
  int64_t ring_slot(const Layer& layer, int64_t end, int64_t r) const;
  int64_t end_of(int64_t b) const;
  bool cleared_at_end(const Layer& layer, int64_t b, int64_t r) const;
  void load_final_adjoint(int l);
  void load_directions(int l);
  void store_directions(int l);
  bool directions_enter() const;
  void scale_directions(int64_t r0, int64_t r1, T factor);
  double largest_direction(int64_t r0, int64_t r1, bool with_ring) const;
  void adjust_directions(Me& m, int64_t first, int64_t r0, int64_t r1);
  void start_directions(Me& m, int64_t r0, int64_t r1);
  // tangents.cpp
  bool tangent_op(Me& m, const gc_op& op);
  const T* tangent_input(int64_t first, int64_t n, int64_t r0, int64_t r1, T factor);
  bool tangent_transform(const TransformWork<T>& t, const T* primal, int64_t n, int64_t r0,
                         int64_t r1, const T* in, T* out, T factor);
  const T* tangent_chain(int l, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* in,
                         int& turn, T factor);
  void tangent_of_weights(T* out, bool adds, int64_t width, const T* w, int64_t size, const T* bias,
                          const T* in, int64_t in_stride, const Run* runs, int64_t n_runs,
                          int64_t n, int64_t r0, int64_t r1, T factor);
  void tangent_table(int64_t first, int64_t n, int64_t r0, int64_t r1, T factor);
  const T* rows_before(const Me& m, const LayerView<T>& v, int64_t first, int64_t n, int64_t Hp);
  const T* tangent_layer(Me& m, int l, int64_t first, int64_t n, int64_t r0, int64_t r1,
                         const T* in, T factor);
  void tangent_head(Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* in, T factor);
  // cotangents.cpp
  bool cotangent_op(Me& m, const gc_op& op);
  const T* cotangent_head(Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, T factor);
  void cotangent_chain(int l, int64_t first, int64_t n, int64_t r0, int64_t r1, T* d);
  void cotangent_layer(Me& m, int l, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* dy,
                       T* dx);
  void store_cotangents(const Me& m, int64_t first, int64_t n, int64_t r0, int64_t r1, const T* dx);
  // backward.cpp
  void start_backward(Me& m);
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
  bool directs_ = false, reverses_ = false;  // tangents or cotangents; the latter
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
  // outputs; pre-activations from both sides; room for products.
  T *direction_rows_[2] = {}, *direction_logits_ = nullptr, *direction_x_pre_ = nullptr,
    *direction_h_pre_ = nullptr, *direction_room_ = nullptr, *direction_dz_ = nullptr,
    *before_ = nullptr, *ones_ = nullptr, *direction_head_ = nullptr,
    *direction_head_bias_ = nullptr;
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

  struct alignas(64) Slot {
    double value[2];
  };
  Slot slots_[max_team];
  struct Offender {
    int64_t layer = INT64_MAX, step = 0, sequence = 0;
    bool adjoint = false;
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
