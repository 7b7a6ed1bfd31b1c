#include "sequence/stages/past_adjoint.h"

#include <algorithm>
#include <cmath>

namespace gradcore {

template <class T>
PastAdjoint<T>::PastAdjoint(Context<T>& context, const Taps& taps, const StateShape& past,
                            bool tangent)
    : context_(context),
      taps_(taps),
      past_(past),
      tangent_(tangent),
      exponents_(context.division.threads()) {}

template <class T>
void PastAdjoint<T>::lay_out(Layout& layout) {
  layout.announce(ring_, past_.lead * context_.timeline.batch * past_.Hp);
  for (int me = 0; me < context_.division.threads(); me++)
    layout.announce(exponents_[me], past_.lead);
}

template <class T>
void PastAdjoint<T>::start(const Worker& m) {
  std::fill(exponents_[m.me], exponents_[m.me] + past_.lead, no_exponent);
  if (m.me == 0) zero(ring_, past_.lead * context_.timeline.batch * past_.Hp);
}

template <class T>
void PastAdjoint<T>::follow(int me) {
  if (me != 0) std::copy(exponents_[0], exponents_[0] + past_.lead, exponents_[me]);
}

// f(tap, i): the taps through which steps i of the chunk read step s, the latest step first.
template <class T>
template <class F>
void PastAdjoint<T>::each_tap(const Chunk& chunk, int64_t s, F f) const {
  const int64_t d = taps_.dilation, first = std::max<int64_t>(0, (chunk.first - s + d - 1) / d),
                last = std::min(taps_.count - 1, (chunk.end() - 1 - s) / d);
  for (int64_t j = last; j >= first; j--) f(taps_.count - 1 - j, s + j * d - chunk.first);
}

// What the sum of step s starts from in this chunk: what waits for it, or its row of the final
// state's cotangent.
template <class T>
int32_t PastAdjoint<T>::start_exponent(const Chunk& chunk, int64_t s, int me) const {
  if (waits(chunk, s)) return exponents_[me][slot(s)];
  const gc_cotangents& given = context_.call.cotangents;
  if (tangent_ || !given.final_state) return no_exponent;
  for (int64_t b = 0; b < context_.timeline.batch; b++) {
    const int64_t end = context_.timeline.end(b);
    if (s < end && s >= end - past_.lead) return given.final_exponent;
  }
  return no_exponent;
}

template <class T>
int32_t PastAdjoint<T>::exponent_of_sum(const Chunk& chunk, int64_t s, const int32_t* arriving,
                                        int me) const {
  int32_t exponent = start_exponent(chunk, s, me);
  each_tap(chunk, s, [&](int64_t, int64_t i) { exponent = std::max(exponent, arriving[i]); });
  return exponent;
}

// At the exponent start_exponent().
template <class T>
void PastAdjoint<T>::begin_sum(const Chunk& chunk, int64_t s, int64_t b, T* to) const {
  const int64_t B = context_.timeline.batch;
  const Timeline& timeline = context_.timeline;
  const T* waiting = ring_ + (slot(s) * B + b) * past_.Hp;
  if (waits(chunk, s)) {
    if (to != waiting) copy(to, waiting, past_.Hp);
    return;
  }
  zero(to, past_.Hp);
  const gc_cotangents& given = context_.call.cotangents;
  const int64_t end = timeline.end(b), q = s - (end - past_.lead);
  if (tangent_ || !given.final_state || q < 0 || q >= past_.lead) return;
  if (end > 0 && s < timeline.cleared(b)) return;
  const T* state = static_cast<const T*>(given.final_state) + context_.state_place(past_, 0);
  copy(to, state + (q * B + b) * past_.H, past_.H);
}

// The sum of row b of step s, which ends at `exponent`.
template <class T>
void PastAdjoint<T>::add_up(const Chunk& chunk, int64_t s, int64_t b, const Arriving& d,
                            int32_t exponent, T* to) const {
  const int64_t B = context_.timeline.batch, H = past_.H;
  const Timeline& timeline = context_.timeline;
  const Kernels<T>& k = context_.kernels;
  begin_sum(chunk, s, b, to);
  int32_t now = start_exponent(chunk, s, 0);
  auto raise = [&](int32_t next) {
    if (next <= now) return;
    if (now != no_exponent) k.scale(to, past_.Hp, power_of_two<T>(int64_t{now} - next));
    now = next;
  };
  each_tap(chunk, s, [&](int64_t tap, int64_t i) {
    const int32_t own = d.exponents[i];
    if (own == no_exponent) return;
    raise(own);
    const int64_t t = chunk.first + i;
    if (!timeline.active(t, b) || !reads(timeline, t, b, s)) return;
    const T factor = power_of_two<T>(int64_t{own} - now);
    const T* from = d.rows + (i * B + b) * d.stride + tap * H;
    if (H % UB == 0)
      k.add_scaled(to, to, from, H, factor);
    else
      for (int64_t u = 0; u < H; u++) to[u] += from[u] * factor;
  });
  raise(exponent);
}

template <class T>
Gradient<T> PastAdjoint<T>::walk(const Worker& m, const Chunk& chunk, const Gradient<T>& d,
                                 int64_t stride, T* rows, int32_t* exponents) {
  const int64_t B = context_.timeline.batch, lead = past_.lead;
  int32_t nothing[block_steps];
  std::fill(nothing, nothing + chunk.n, no_exponent);
  const Arriving arriving{d.rows, d.rows ? d.exponents : nothing, stride};
  bool any = false;
  for (int64_t i = 0; i < chunk.n; i++) {
    exponents[i] = exponent_of_sum(chunk, chunk.first + i, arriving.exponents, m.me);
    any = any || exponents[i] != no_exponent;
  }
  const Slice own = m.slice_of(chunk.n * B);
  for (int64_t r = own.begin; r < own.end; r++)
    add_up(chunk, chunk.first + r / B, r % B, arriving, exponents[r / B], rows + r * past_.Hp);
  m.barrier();
  // Rows before the chunk take the places in the ring of those that were done.
  const Slice waiting = m.slice_of(lead * B);
  for (int64_t r = waiting.begin; r < waiting.end; r++) {
    const int64_t s = chunk.first - lead + r / B;
    add_up(chunk, s, r % B, arriving, exponent_of_sum(chunk, s, arriving.exponents, m.me),
           ring_ + (slot(s) * B + r % B) * past_.Hp);
  }
  m.barrier();
  for (int64_t s = chunk.first - lead; s < chunk.first; s++)
    exponents_[m.me][slot(s)] = exponent_of_sum(chunk, s, arriving.exponents, m.me);
  m.barrier();
  return {any ? rows : nullptr, exponents};
}

template <class T>
int32_t PastAdjoint<T>::write(T* states) const {
  const int64_t B = context_.timeline.batch, H = past_.H;
  T* out = states + context_.state_place(past_, 0);
  double most = 0;
  int32_t common = no_exponent;
  for (int64_t q = 0; q < past_.lead; q++) {
    const double largest = context_.kernels.max_abs(ring_ + q * B * past_.Hp, B * past_.Hp);
    if (largest == 0 || exponents_[0][q] == no_exponent) continue;
    const int32_t exponent = exponents_[0][q];
    if (common == no_exponent || exponent > common) {
      most = std::ldexp(most, common == no_exponent ? 0 : std::max(common - exponent, -5000));
      common = exponent;
    }
    most = std::max(most, std::ldexp(largest, std::max(exponent - common, -5000)));
  }
  if (common == no_exponent) common = 0;
  if (fits<T>(most, common)) common = 0;
  for (int64_t q = 0; q < past_.lead; q++)
    for (int64_t b = 0; b < B; b++)
      for (int64_t u = 0; u < H; u++)
        out[(q * B + b) * H + u] =
            exponents_[0][q] == no_exponent
                ? T(0)
                : shifted(ring_[(q * B + b) * past_.Hp + u], int64_t{exponents_[0][q]} - common);
  return common;
}

template class PastAdjoint<float>;
template class PastAdjoint<double>;

}  // namespace gradcore
