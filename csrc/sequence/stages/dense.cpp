#include "sequence/stages/dense.h"

#include <algorithm>

namespace gradcore {

// f(at, o, u): the sum of output o and of element u of the rows.
template <class T>
template <class F>
void Dense<T>::each_sum(const DenseSpan& span, F f) const {
  const int64_t end = std::min(int64_t{span.j1} * UB, this->units());
  for (int64_t o = int64_t{span.j0} * UB; o < end; o++) {
    int64_t n = (o / UB - span.j0) * span.elements;
    for (const Slice& range : span.ranges)
      for (int64_t u = range.begin; u < range.end; u++, n++)
        f(span.at_sums + n * UB + o % UB, o, u);
  }
}

template <class T>
Dense<T>::Dense(Context<T>& context, Stage<T>* below, const Transform& transform, bool joins,
                bool head)
    : Stage<T>(context, below, transform.O, (transform.O + UB - 1) / UB * UB),
      transform_(transform),
      joins_(joins),
      head_(head),
      inputs_{transform.taps(), transform.I / transform.taps(), transform.groups()},
      outputs_{1, transform.O, transform.groups()},
      forward_(outputs_, inputs_, UB),
      back_(inputs_, outputs_, UB) {
  const int64_t size = inputs_.each / inputs_.groups;  // of a group
  for (int64_t u = 0; u < transform_.I; u++)
    places_.push_back(
        {inputs_.group_of(u), u % inputs_.each % size * inputs_.taps + u / inputs_.each});
  if (!context.purpose.trains) return;
  sums_.emplace(context, sums_size());
  foreign_.resize(forward_.spans().size());
  for (size_t s = 0; outputs_.groups > 1 && s < foreign_.size(); s++)
    each_sum(forward_.spans()[s], [&](int64_t at, int64_t o, int64_t u) {
      if (place(o, u) < 0) foreign_[s].push_back(at);
    });
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
  if (wants_transposed()) layout.announce(transposed_, transposed_weights());
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
int64_t Dense<T>::place(int64_t o, int64_t u) const {
  const Place& of = places_[static_cast<size_t>(u)];
  if (outputs_.groups > 1 && outputs_.group_of(o) != of.group) return -1;
  return o * (inputs_.each / inputs_.groups) * inputs_.taps + of.column;
}

template <class T>
void Dense<T>::pack_parameters(const Worker& m, const T* params, T* weight, T* bias,
                               T* transposed) const {
  const int64_t O = this->units(), I = transform_.I;
  auto value = [&](int64_t o, int64_t u) {
    const int64_t at = o < O && u < I ? place(o, u) : -1;
    return at < 0 ? T(0) : params[transform_.weight + at];
  };
  // f(at, lane, element): where the weight of a lane of block j of a map's own side and of an
  // element of the other side lies; the lanes of an element lie side by side.
  auto each = [&](const DenseMap& map, int64_t j, auto f) {
    const DenseSpan& span = map.span_of(j);
    const auto runs = static_cast<int64_t>(span.runs.size());
    for (int64_t q = 0; q < runs; q++)
      for (int64_t e = 0; e < UB; e++) {
        const Run& run = span.runs[static_cast<size_t>(q)];
        const int64_t at = span.at_weight + (((j - span.j0) * runs + q) * UB + e) * UB;
        for (int64_t lane = 0; lane < UB; lane++)
          f(at + lane, j * UB + lane, e < run.length ? run.offset + e : std::max(O, I));
      }
  };
  const Slice own = m.slice_of(this->stride() / UB);
  for (int64_t o = own.begin * UB; o < own.end * UB; o++)
    bias[o] = has_bias(o) ? params[transform_.bias + o] : T(0);
  for (int64_t j = own.begin; j < own.end; j++)
    each(forward_, j, [&](int64_t at, int64_t o, int64_t u) { weight[at] = value(o, u); });
  const Slice below = m.slice_of(transposed ? this->below_->stride() / UB : 0);
  for (int64_t j = below.begin; j < below.end; j++)
    each(back_, j, [&](int64_t at, int64_t u, int64_t o) { transposed[at] = value(o, u); });
}

template <class T>
void Dense<T>::products(const DenseMap& map, T* out, int64_t out_stride, const T* weight,
                        const T* bias, const T* in, int64_t in_stride, const Slice& rows) const {
  for (const DenseSpan& span : map.spans())
    this->kernels().dense(out + span.j0 * UB, out_stride, weight + span.at_weight,
                          bias ? bias + span.j0 * UB : nullptr, in, in_stride, span.runs.data(),
                          static_cast<int64_t>(span.runs.size()), rows.begin, rows.end, 0,
                          span.j1 - span.j0);
}

template <class T>
void Dense<T>::product(T* out, const T* weight, const T* bias, const T* in,
                       const Slice& rows) const {
  products(forward_, out, this->stride(), weight, bias, in, this->below_->stride(), rows);
}

template <class T>
void Dense<T>::transposed_product(T* d_in, const T* transposed, const T* d,
                                  const Slice& rows) const {
  products(back_, d_in, this->below_->stride(), transposed, nullptr, d, this->stride(), rows);
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

// Threads divide inputs where there are enough, else output blocks; with groups they take spans in
// turn.
template <class T>
void Dense<T>::add_products(const Worker& m, const Slice& rows, const T* x, const T* d,
                            T* part) const {
  const bool grouped = outputs_.groups > 1;
  const std::vector<DenseSpan>& spans = forward_.spans();
  for (size_t s = 0; s < spans.size(); s++) {
    const DenseSpan& span = spans[s];
    if (grouped && static_cast<int>(s) % m.size != m.me) continue;
    const int64_t blocks = span.j1 - span.j0;
    const bool by_inputs = !grouped && span.elements >= 4 * m.size;
    const Slice inputs = by_inputs ? m.slice_of(span.elements) : Slice{0, span.elements},
                outputs = by_inputs || grouped ? Slice{0, blocks} : m.slice_of(blocks);
    int64_t before = 0;  // elements of the ranges before
    for (const Slice& range : span.ranges) {
      const int64_t begin = std::max(inputs.begin, before),
                    end = std::min(inputs.end, before + range.size()),
                    from = range.begin + begin - before;
      before += range.size();
      if (begin >= end) continue;
      this->kernels().outer_dense(
          part + span.at_sums + begin * UB, x + rows.begin * this->below_->stride() + from,
          this->below_->stride(), span.elements, d + rows.begin * this->stride() + span.j0 * UB,
          this->stride(), rows.size(), static_cast<int32_t>(outputs.begin),
          static_cast<int32_t>(outputs.end), 0, end - begin);
    }
    for (const int64_t at : foreign_[s]) part[at] = T(0);
  }
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
  auto put = [&](int64_t to, int64_t from) {
    const T value = shifted(sums[from], shift);
    grads[to] = joins_ ? grads[to] + value : value;
  };
  for (const DenseSpan& span : forward_.spans())
    each_sum(span, [&](int64_t at, int64_t o, int64_t u) {
      const int64_t to = place(o, u);
      if (to >= 0) put(transform_.weight + to, at);
    });
  for (int64_t o = 0; o < this->units(); o++)
    if (has_bias(o)) put(transform_.bias + o, at_bias() + o);
}

template <class T>
void Dense<T>::follow(int me) {
  if (sums_) sums_->follow(me);
}

template class Dense<float>;
template class Dense<double>;

}  // namespace gradcore
