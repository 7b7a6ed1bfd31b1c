// Tangents of a pool over the sequence: those of its one row.
#pragma once
#include "sequence/derivatives/tangent.h"
#include "sequence/stages/pool.h"

namespace gradcore {

template <class T>
class TangentPool : public Tangent<T> {
 public:
  TangentPool(TangentContext<T>& tangents, Pool<T>& pool, Tangent<T>* below)
      : Tangent<T>(tangents, below), pool_(pool) {}

  T* rows(int64_t first) const override { return this->below_->rows(first); }
  void lay_out(Layout& layout) override;
  void pack(const Worker& m) override;
  void forward(Worker& m, const Chunk& chunk) override;
  void refresh(Worker&, const Chunk&) override {}
  void start_backward(const Worker& m) override;
  T* backward(Worker& m, const Chunk& chunk, const Gradient<T>& d, const Gradient<T>& below,
              T* t_d) override;
  void unpack(T* product) const override;

 private:
  using Tangent<T>::UB;
  // Tangents of all sequences, which threads divide; tangent k of sequence b is b * K + k.
  int64_t items() const { return this->batch() * this->K(); }
  // Tangent k of the weight; null if no parameter moves.
  const T* moved(int64_t k) const;
  void add(const Chunk& chunk, int64_t item, double factor, T parameter_factor);
  void choose(const Chunk& chunk, int64_t item, int32_t exponent);
  void finish(Worker& m, const Slice& own);
  int64_t exponent_at(int64_t i) const;
  double bend(int64_t r, int64_t b, const T* h, const T* t_h, T* to) const;
  void add_sums(const Worker& m, const Chunk& chunk, bool any);

  Pool<T>& pool_;
  int64_t next_ = 0;  // the first step that has not joined
  // [items][stride] of the pooled rows. Sums have one exponent, that of the largest tangents so far
  // (no_exponent: none yet); what is chosen has an exponent for each element.
  double* values_ = nullptr;
  int32_t exponent_ = no_exponent;
  int32_t* exponents_ = nullptr;
  double* scores_ = nullptr;  // [items] sums of the scores' tangents; at the end their means
  // With a Hessian and attention: by row of the chunk the tangent of what the row counts in the
  // gradient of the weight; that gradient's sums.
  double* shares_ = nullptr;
  T *part_ = nullptr, *sums_ = nullptr;
};

}  // namespace gradcore
