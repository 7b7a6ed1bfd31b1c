// The product of a layer's input with weight_ih, of all steps of a chunk at once; for tokens
// without an embedding, a column of weight_ih for each.
#pragma once
#include "sequence/stages/stage.h"

namespace gradcore {

template <class T>
class InputProduct {
 public:
  // index: of the layer in the part. input: the stage that it reads.
  InputProduct(Context<T>& context, const Layer& layer, int index, const Stage<T>& input);

  void lay_out(Layout& layout);
  void pack(const Worker& m);
  // x_pre of this thread's own shares; no other thread reads those.
  void forward(const Worker& m, const Chunk& chunk);
  // The gradient of the layer's input, of this thread's rows, from adjoints dz of pre-activations.
  void backward(const Slice& rows, const T* dz, T* dx) const;

  // [rows][nb][gates][UB] of the chunk.
  const T* x_pre() const { return x_pre_; }
  bool is_table() const { return is_table_; }
  const T* weight() const { return weight_; }
  const T* transposed() const { return transposed_; }
  const Run* input_runs() const { return input_runs_.data(); }
  // Where the planes that the input side reads lie in a row of dz, by unit block and gate.
  const Run* dz_runs() const { return dz_runs_.data(); }

  // Sums of gradients of weight_ih to `grads` times 2^shift; `sums` is in the order of weight(), or
  // of the table [I][nb*gates*UB].
  void unpack(const T* sums, T* grads, int64_t shift) const;

 private:
  static constexpr int64_t UB = unit_block<T>;
  void pack_output(int64_t out);
  void look_up(const Chunk& chunk, const Share& share);

  Context<T>& context_;
  const Layer& layer_;
  const int index_;
  const Stage<T>& input_;
  const bool is_table_;
  T* weight_ = nullptr;      // [nb*gates][ib runs][UB][UB]
  T* bias_ = nullptr;        // [nb*gates][UB]
  T* table_ = nullptr;       // [I][nb*gates*UB] columns of weight_ih with the bias added
  T* transposed_ = nullptr;  // [ib][nb*gates runs][UB][UB]; null if nobody wants the gradient
  T* x_pre_ = nullptr;
  std::vector<Run> input_runs_, dz_runs_;
};

}  // namespace gradcore
