// A recurrent layer, or one direction of a bidirectional one.
#pragma once
#include <initializer_list>
#include <optional>
#include <vector>

#include "sequence/scale/gradient_sums.h"
#include "sequence/scale/token_sums.h"
#include "sequence/stages/adjoint.h"
#include "sequence/stages/input_product.h"
#include "sequence/stages/recurrent_weights.h"
#include "sequence/stages/stage.h"
#include "sequence/stages/states.h"
#include "sequence/stages/unit_masks.h"

namespace gradcore {

template <class T>
class Recurrent : public Stage<T> {
 public:
  // index: of the layer in the part.
  Recurrent(Context<T>& context, Stage<T>* below, int index);

  const T* rows(int64_t first) const override;
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void begin_segment(const gc_op& op) override;
  void end_segment(const gc_op& op) override;
  void forward(Worker& m, const Chunk& chunk, bool tape) override;
  const Stage<T>* made_from() const override { return nullptr; }
  void refresh(Worker&, const Chunk&) override {}  // the segment has the outputs
  bool wants_gradient() const override { return true; }
  void start_backward(Worker& m) override;
  Gradient<T> backward(Worker& m, const Chunk& chunk, Gradient<T> d) override;
  void end_backward(const Worker& m) override;
  int64_t gradient_exponent() const override;
  void unpack(T* grads, int64_t exponent) override;
  void follow(int me) override;

  // For tangents and cotangents.
  const Layer& layer() const { return layer_; }
  int index() const { return index_; }
  const InputProduct<T>& input() const { return input_; }
  const CellKernels<T>& cell() const { return this->kernels().cells[layer_.spec.cell]; }
  // What the kernels see of the chunk that begins at step `first`.
  LayerView<T> view(int64_t first) const;
  // The masks of a chunk that has gone forward.
  void refresh_masks(Worker& m, const Chunk& chunk);
  // The mask of recurrent dropout [B][Hp]; null without.
  const T* recurrent_mask() const { return masks_.recurrent(); }
  const T* dz() const { return dz_; }
  // Sums over the rows of a chunk's steps [i0,i1) of products of what weight_hh multiplied, h, and
  // of the layer's input, x (null: none, or tokens), with adjoints dz; into `part`, of sums_size()
  // elements. h and x belong to the chunk's first step. Several products add up.
  struct Factors {
    const T *h, *x, *dz;
  };
  void add_products(const Worker& m, int64_t first, int64_t i0, int64_t i1,
                    std::initializer_list<Factors> products, T* part) const;
  // The same of what a bias adds to, and of terms of a learned skip parameter (null: none).
  void add_columns(const Worker& m, int64_t i0, int64_t i1, const T* dz, const T* skip_terms,
                   T* part) const;
  int64_t sums_size() const { return at_skip_ + (layer_.skip >= 0 ? layer_.Hp : 0); }
  // Both kinds of sums to their places in `grads`; table_sums: null unless tokens choose columns.
  void unpack_sums(const T* sums, int64_t shift, const T* table_sums, int64_t table_shift,
                   T* grads) const;
  // The columns that tokens choose; empty unless they do.
  const std::optional<TokenSums<T>>& table() const { return table_; }

 private:
  using Stage<T>::UB;
  template <class F>
  void each_share(const Worker& m, F f) const {
    this->context_.division.each_share(index_, layer_.nb, m.me, m.size, f);
  }
  void find_foreign();
  void add_recurrent(const Factors& f, int64_t begin, int64_t end, int32_t j0, int32_t j1,
                     const Slice& hidden, T* part) const;
  bool records() const;
  void store_gates(const Worker& m, const Chunk& chunk) const;
  void check_finite(const Worker& m, const Chunk& chunk) const;
  void add_residual(const Worker& m, const Chunk& chunk, const Gradient<T>& from,
                    const Gradient<T>& to) const;
  void write_record(const Worker& m, const Chunk& chunk, const int32_t* exponents) const;

  const Layer& layer_;
  const int index_;
  InputProduct<T> input_;
  RecurrentWeights<T> weights_;
  States<T> states_;
  UnitMasks<T> masks_;
  std::optional<Adjoint<T>> adjoint_;  // these three with backward only
  std::optional<GradientSums<T>> sums_;
  std::optional<TokenSums<T>> table_;
  // Where the parts of the sums begin: weight_hh, weight_ih (unless tokens choose its columns),
  // biases [nb*planes*UB], skip [Hp].
  int64_t at_input_, at_bias_, at_skip_;
  std::vector<std::vector<int64_t>> foreign_;  // by unit block, places of sums that are nobody's
  T* gates_ = nullptr;      // what the tape would keep, of a chunk, for the caller's array of gates
  T* outputs_ = nullptr;    // [segment][B][Hp] h + input, residual layers only
  T* dz_ = nullptr;         // [rows] of z_row elements, of the chunk
  T* record_ = nullptr;     // [rows][Hp] adjoints of the outputs of the layer asked for
  T* zeros_ = nullptr;      // [Hp]
  T* h_product_ = nullptr;  // recurrent products of the chunk, for tangents
  T* d_steps_ = nullptr;    // adjoints of the states after each step of the chunk, for tangents
};

}  // namespace gradcore
