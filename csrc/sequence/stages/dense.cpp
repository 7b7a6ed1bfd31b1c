#include "sequence/stages/dense.h"

#include "sequence/runs.h"

namespace gradcore {

template <class T>
Dense<T>::Dense(Context<T>& context, Stage<T>* below, const Transform& transform, bool joins,
                bool head)
    : Stage<T>(context, below, transform.O, (transform.O + UB - 1) / UB * UB),
      transform_(transform),
      joins_(joins),
      head_(head),
      input_runs_(runs_of<T>(transform.I)),
      output_runs_(runs_of<T>(transform.O)) {
  if (context.purpose.trains) sums_.emplace(context, sums_size());
}

template <class T>
bool Dense<T>::wants_transposed() const {
  const Purpose& purpose = this->context_.purpose;
  return (purpose.trains || purpose.cotangents) && this->below_->wants_gradient();
}

template <class T>
void Dense<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  layout.announce(weight_, weights());
  layout.announce(bias_, this->stride());
  if (wants_transposed()) layout.announce(transposed_, weights());
  if (head_)
    layout.share(scratch_outputs, rows_, this->context_.rows() * this->stride());
  else
    layout.announce(rows_, this->context_.rows() * this->stride());
  if (sums_) sums_->lay_out(layout);
}

template <class T>
void Dense<T>::pack(const Worker& m) {
  pack_parameters(m, this->context_.params(), weight_, bias_, transposed_);
}

template <class T>
void Dense<T>::pack_parameters(const Worker& m, const T* params, T* weight, T* bias,
                               T* transposed) const {
  const int64_t I = transform_.I, Ip = this->below_->stride();
  const Slice own = m.slice_of(this->stride());
  for (int64_t o = own.begin; o < own.end; o++) {
    const bool real = o < this->units();
    bias[o] = has_bias(o) ? params[transform_.bias + o] : T(0);
    for (int64_t u = 0; u < Ip; u++) {
      const T value = real && u < I ? params[transform_.weight + o * I + u] : T(0);
      weight[(o / UB * Ip + u) * UB + o % UB] = value;
      if (transposed) transposed[(u / UB * this->stride() + o) * UB + u % UB] = value;
    }
  }
}

template <class T>
void Dense<T>::product(T* out, const T* weight, const T* bias, const T* in,
                       const Slice& rows) const {
  this->kernels().dense(out, this->stride(), weight, bias, in, this->below_->stride(),
                        input_runs_.data(), static_cast<int64_t>(input_runs_.size()), rows.begin,
                        rows.end, 0, static_cast<int32_t>(output_runs_.size()));
}

template <class T>
void Dense<T>::transposed_product(T* d_in, const T* transposed, const T* d,
                                  const Slice& rows) const {
  this->kernels().dense(d_in, this->below_->stride(), transposed, nullptr, d, this->stride(),
                        output_runs_.data(), static_cast<int64_t>(output_runs_.size()), rows.begin,
                        rows.end, 0, static_cast<int32_t>(input_runs_.size()));
}

template <class T>
void Dense<T>::forward(Worker& m, const Chunk& chunk, bool) {
  product(rows_, weight_, bias_, this->below_->rows(chunk.first), this->rows_of(m, chunk));
  m.barrier();
}

template <class T>
void Dense<T>::refresh(Worker& m, const Chunk& chunk) {
  this->below_->refresh(m, chunk);
  forward(m, chunk, false);
}

template <class T>
void Dense<T>::start_backward(Worker& m) {
  if (sums_) sums_->start(m);
}

template <class T>
Gradient<T> Dense<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  const bool passes = d.rows && transposed_;
  if (passes) transposed_product(this->d_below_, transposed_, d.rows, this->rows_of(m, chunk));
  if (sums_)
    sums_->add(m, chunk, d.exponents, [&](int64_t i0, int64_t i1) {
      const Slice rows = Slice{i0, i1}.times(this->batch());
      add_products(m, rows, this->below_->rows(chunk.first), d.rows, sums_->part());
      add_bias(m, rows, d.rows, sums_->part());
    });
  m.barrier();
  return {passes ? this->d_below_ : nullptr, d.exponents};
}

// Threads divide inputs where there are enough, else output blocks.
template <class T>
void Dense<T>::add_products(const Worker& m, const Slice& rows, const T* x, const T* d,
                            T* part) const {
  const int64_t I = transform_.I, stride = this->below_->stride();
  const auto blocks = static_cast<int64_t>(output_runs_.size());
  const bool by_inputs = I >= 4 * m.size;
  const Slice inputs = by_inputs ? m.slice_of(I) : Slice{0, I},
              outputs = by_inputs ? Slice{0, blocks} : m.slice_of(blocks);
  this->kernels().outer_dense(part, x + rows.begin * stride, stride, I,
                              d + rows.begin * this->stride(), this->stride(), rows.size(),
                              static_cast<int32_t>(outputs.begin),
                              static_cast<int32_t>(outputs.end), inputs.begin, inputs.end);
}

template <class T>
void Dense<T>::add_bias(const Worker& m, const Slice& rows, const T* d, T* part) const {
  if (m.me != 0 || transform_.bias < 0) return;
  this->kernels().column_sum(part + at_bias(), d + rows.begin * this->stride(), this->stride(),
                             rows.size(), 0, this->stride());
  // Sums of outputs without a bias must not count where the largest gradient is looked for.
  zero(part + at_bias() + transform_.biased, this->units() - transform_.biased);
}

template <class T>
int64_t Dense<T>::gradient_exponent() const {
  return sums_ ? sums_->largest_exponent() : INT64_MIN;
}

template <class T>
void Dense<T>::unpack(T* grads, int64_t exponent) {
  if (sums_) unpack_sums(sums_->sums(), grads, sums_->shift(exponent));
}

template <class T>
void Dense<T>::unpack_sums(const T* sums, T* grads, int64_t shift) const {
  const int64_t I = transform_.I;
  auto put = [&](int64_t to, int64_t from) {
    const T value = shifted(sums[from], shift);
    grads[to] = joins_ ? grads[to] + value : value;
  };
  for (int64_t o = 0; o < this->units(); o++) {
    for (int64_t u = 0; u < I; u++)
      put(transform_.weight + o * I + u, (o / UB * I + u) * UB + o % UB);
    if (has_bias(o)) put(transform_.bias + o, at_bias() + o);
  }
}

template <class T>
void Dense<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class Dense<float>;
template class Dense<double>;

}  // namespace gradcore
