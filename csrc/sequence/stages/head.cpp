#include "sequence/stages/head.h"

#include "sequence/runs.h"

namespace gradcore {

template <class T>
Head<T>::Head(Context<T>& context, Stage<T>* below)
    : Stage<T>(context, below, context.net.outputs, context.net.Op),
      input_runs_(runs_of<T>(below->units())),
      output_runs_(runs_of<T>(context.net.outputs)) {
  if (context.purpose.trains) sums_.emplace(context, sums_size());
}

template <class T>
void Head<T>::lay_out(Layout& layout) {
  const Purpose& purpose = this->context_.purpose;
  const int64_t weights = this->stride() * this->below_->stride();
  this->share_gradient(layout);
  layout.announce(weight_, weights);
  layout.announce(bias_, this->stride());
  if (purpose.trains || purpose.cotangents) layout.announce(transposed_, weights);
  layout.share(scratch_outputs, rows_, this->context_.rows() * this->stride());
  if (sums_) sums_->lay_out(layout);
}

template <class T>
void Head<T>::pack(const Worker& m) {
  if (m.me != 0) return;
  const Network& net = this->context_.net;
  const T *params = this->context_.params(), *weight = params + net.head_weight;
  const int64_t H = this->below_->units(), Hp = this->below_->stride();
  for (int64_t o = 0; o < this->stride(); o++) {
    const bool real = o < this->units();
    bias_[o] = net.head_bias && real ? params[net.head_bias_offset + o] : T(0);
    for (int64_t u = 0; u < Hp; u++) {
      const T value = real && u < H ? weight[o * H + u] : T(0);
      weight_[(o / UB * Hp + u) * UB + o % UB] = value;
      if (transposed_) transposed_[(u / UB * this->stride() + o) * UB + u % UB] = value;
    }
  }
}

template <class T>
void Head<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const Slice own = this->rows_of(m, chunk);
  this->kernels().dense(rows_, this->stride(), weight_, bias_, this->below_->rows(chunk.first),
                        this->below_->stride(), input_runs_.data(),
                        static_cast<int64_t>(input_runs_.size()), own.begin, own.end, 0,
                        static_cast<int32_t>(output_runs_.size()));
  m.barrier();
}

template <class T>
void Head<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
void Head<T>::start_backward(Worker& m) {
  sums_->start(m);
}

template <class T>
Gradient<T> Head<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (d.rows) {
    const Slice own = this->rows_of(m, chunk);
    this->kernels().dense(this->d_below_, this->below_->stride(), transposed_, nullptr, d.rows,
                          this->stride(), output_runs_.data(),
                          static_cast<int64_t>(output_runs_.size()), own.begin, own.end, 0,
                          static_cast<int32_t>(input_runs_.size()));
  }
  // All terms are at exponent 0, so that the whole chunk is one run.
  sums_->add(m, chunk, d.exponents, [&](int64_t, int64_t) {
    add_products(m, chunk, this->below_->rows(chunk.first), d.rows, sums_->part());
    add_bias(m, chunk, d.rows, sums_->part());
  });
  m.barrier();
  return {d.rows ? this->d_below_ : nullptr, d.exponents};
}

template <class T>
void Head<T>::add_products(const Worker& m, const Chunk& chunk, const T* x, const T* d,
                           T* part) const {
  const Slice inputs = m.slice_of(this->below_->units());
  this->kernels().outer_dense(part, x, this->below_->stride(), this->below_->units(), d,
                              this->stride(), chunk.n * this->batch(), 0,
                              static_cast<int32_t>(output_runs_.size()), inputs.begin, inputs.end);
}

template <class T>
void Head<T>::add_bias(const Worker& m, const Chunk& chunk, const T* d, T* part) const {
  if (m.me == 0 && this->context_.net.head_bias)
    this->kernels().column_sum(part + at_bias(), d, this->stride(), chunk.n * this->batch(), 0,
                               this->stride());
}

template <class T>
void Head<T>::unpack(T* grads, int64_t exponent) {
  unpack_sums(sums_->sums(), grads, sums_->shift(exponent));
}

template <class T>
void Head<T>::unpack_sums(const T* sums, T* grads, int64_t shift) const {
  const Network& net = this->context_.net;
  const int64_t H = this->below_->units();
  for (int64_t o = 0; o < this->units(); o++) {
    for (int64_t u = 0; u < H; u++)
      grads[net.head_weight + o * H + u] = shifted(sums[(o / UB * H + u) * UB + o % UB], shift);
    if (net.head_bias) grads[net.head_bias_offset + o] = shifted(sums[at_bias() + o], shift);
  }
}

template <class T>
void Head<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class Head<float>;
template class Head<double>;

}  // namespace gradcore
