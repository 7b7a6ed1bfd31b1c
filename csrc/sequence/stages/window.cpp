#include "sequence/stages/window.h"

namespace gradcore {

template <class T>
Window<T>::Window(Context<T>& context, Stage<T>* below, const Transform& transform)
    : Stage<T>(context, below, transform.O,
               (transform.O + unit_block<T> - 1) / unit_block<T> * unit_block<T>),
      taps_{transform.taps(), transform.spec.dilation},
      past_(transform.past),
      states_(context, past_) {
  if (context.purpose.trains && wants_gradient()) adjoint_.emplace(context, taps_, past_, false);
}

template <class T>
void Window<T>::lay_out(Layout& layout) {
  this->share_gradient(layout);
  states_.lay_out(layout);
  layout.announce(rows_, this->context_.rows() * this->stride());
  if (adjoint_) adjoint_->lay_out(layout);
}

template <class T>
bool Window<T>::wants_gradient() const {
  const Context<T>& c = this->context_;
  return this->below_->wants_gradient() || (c.purpose.trains && has(c.call, GC_ARRAY_DSTATE)) ||
         (c.purpose.cotangents && has(c.call, GC_ARRAY_COTANGENT_STATE));
}

// ---- forward

// context.origin is still the first step of the segment before.
template <class T>
void Window<T>::begin_segment(const gc_op& op) {
  states_.load(op, op.t0 - this->context_.origin);
}

template <class T>
void Window<T>::end_segment(const gc_op& op) {
  states_.save_slot(op);
  if (!this->context_.goes_back) states_.capture(op);
}

template <class T>
void Window<T>::forward(Worker& m, const Chunk& chunk, bool) {
  const int64_t row = this->batch() * past_.Hp;
  const Slice own = this->rows_of(m, chunk).times(past_.Hp);
  copy(states_.h(chunk.first) + row + own.begin, this->below_->rows(chunk.first) + own.begin,
       own.size());
  m.barrier();
  refresh(m, chunk);
}

// From the rows that are kept.
template <class T>
void Window<T>::refresh(Worker& m, const Chunk& chunk) {
  gather(chunk, this->rows_of(m, chunk), 1, states_.h(chunk.first) + this->batch() * past_.Hp,
         rows_);
  m.barrier();
}

template <class T>
void Window<T>::gather(const Chunk& chunk, const Slice& rows, int64_t K, const T* at,
                       T* out) const {
  const int64_t B = this->batch(), H = past_.H, stride = this->stride(), step = B * K * past_.Hp;
  const Timeline& timeline = this->context_.timeline;
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const int64_t t = chunk.first + r / B, b = r % B;
    for (int64_t k = 0; k < K; k++) {
      T* to = out + (r * K + k) * stride;
      if (!timeline.active(t, b)) {
        zero(to, stride);
        continue;
      }
      const T* from = at + (r * K + k) * past_.Hp;
      for (int64_t tap = 0; tap < taps_.count; tap++, to += H) {
        const int64_t lag = taps_.lag(tap);
        if (reads(timeline, t, b, t - lag))
          copy_few(to, from - lag * step, H);
        else
          zero(to, H);
      }
      zero(to, stride - taps_.count * H);
    }
  }
}

// ---- backward

template <class T>
void Window<T>::start_backward(Worker& m) {
  if (adjoint_) adjoint_->start(m);
}

template <class T>
Gradient<T> Window<T>::backward(Worker& m, const Chunk& chunk, Gradient<T> d) {
  if (this->below_->wants_gradient()) this->below_->prepare_backward(m, chunk);
  return adjoint_->walk(m, chunk, d, this->stride(), this->d_below_, m.other(d.exponents));
}

template <class T>
void Window<T>::end_backward(const Worker&) {
  gc_call& call = this->context_.call;
  if (adjoint_ && call.dstate)
    call.dstate_exponent[past_.state_index] = adjoint_->write(static_cast<T*>(call.dstate));
}

template <class T>
void Window<T>::follow(int me) {
  if (adjoint_) adjoint_->follow(me);
}

template class Window<float>;
template class Window<double>;

}  // namespace gradcore
