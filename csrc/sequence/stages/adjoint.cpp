#include "sequence/stages/adjoint.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradcore {

template <class T>
void Adjoint<T>::lay_out(Layout& layout) {
  const Layer& l = layer_;
  layout.announce(d_, l.states * row());
  layout.announce(d_copy_, l.states * row());
  if (l.has_skip()) {
    layout.announce(ring_, l.lead * row());
    layout.announce(ring_copy_, std::min(l.lead, look_steps) * row());
  }
  if (l.skip >= 0) layout.announce(skip_terms_, context_.rows() * l.Hp);
  factors_ = PerThread<T*>(context_.division.threads());
  for (int me = 0; me < context_.division.threads(); me++)
    layout.announce(factors_[me], context_.chunk_steps);
}

template <class T>
void Adjoint<T>::start(Worker& m) {
  const gc_call& call = context_.call;
  if (m.me == 0) {
    zero(d_, layer_.states * row());
    if (ring_) zero(ring_, layer_.lead * row());
    if (call.cotangents.final_state) load_final_cotangents(context_, layer_, d_, ring_);
  }
  m.barrier();
  band_.start(m.me, 0);
  if (!call.cotangents.final_state) return;
  const double last = context_.crew.reduce_max(m, largest(m, 0, 0));
  band_.start(m.me, call.cotangents.final_exponent,
              std::max(last, context_.crew.reduce_max(m, largest_in_ring(m))));
}

template <class T>
void Adjoint<T>::complete(LayerView<T>& view) const {
  view.d = d_;
  view.ring = ring_;
  view.dskip = skip_terms_;
}

// ---- the adjoint's size

template <class T>
void Adjoint<T>::scale(const Worker& m, T factor) const {
  auto scale_planes = [&](T* rows, int64_t planes) {
    each_share(m, [&](const Share& s) {
      for (int64_t p = 0; p < planes; p++)
        for (int64_t b = s.b0; b < s.b1; b++)
          context_.kernels.scale(rows + p * row() + b * layer_.Hp + s.j0 * UB, (s.j1 - s.j0) * UB,
                                 factor);
    });
  };
  scale_planes(d_, layer_.states);
  if (ring_) scale_planes(ring_, layer_.lead);
}

// Of the adjoint and of what steps [t0,t1) have put into the ring: where the cell passes nothing
// on, all of the gradient travels there.
template <class T>
double Adjoint<T>::largest(const Worker& m, int64_t t0, int64_t t1) const {
  double most = 0;
  auto look = [&](const T* rows) {
    each_share(m, [&](const Share& s) {
      for (int64_t b = s.b0; b < s.b1; b++)
        most = std::max(
            most, context_.kernels.max_abs(rows + b * layer_.Hp + s.j0 * UB, (s.j1 - s.j0) * UB));
    });
  };
  for (int64_t p = 0; p < layer_.states; p++) look(d_ + p * row());
  for (int64_t n = 0; ring_ && n < std::min(layer_.lead, t1 - t0); n++)
    look(ring_ + (t0 + n) % layer_.lead * row());
  return most;
}

template <class T>
double Adjoint<T>::largest_in_ring(const Worker& m) const {
  double most = 0;
  each_share(m, [&](const Share& s) {
    for (int64_t p = 0; ring_ && p < layer_.lead; p++)
      for (int64_t b = s.b0; b < s.b1; b++)
        most =
            std::max(most, context_.kernels.max_abs(ring_ + p * row() + b * layer_.Hp + s.j0 * UB,
                                                    (s.j1 - s.j0) * UB));
  });
  return most;
}

// The adjoint and the ring's slots that steps [t0,t1) change, to the copy or back from it.
template <class T>
void Adjoint<T>::copy_steps(const Worker& m, int64_t t0, int64_t t1, bool back) const {
  auto move = [&](T* live, T* kept) {
    each_share(m, [&](const Share& s) {
      const size_t bytes = static_cast<size_t>((s.j1 - s.j0) * UB) * sizeof(T);
      for (int64_t b = s.b0; b < s.b1; b++) {
        const int64_t at = b * layer_.Hp + s.j0 * UB;
        std::memcpy((back ? live : kept) + at, (back ? kept : live) + at, bytes);
      }
    });
  };
  for (int64_t p = 0; p < layer_.states; p++) move(d_ + p * row(), d_copy_ + p * row());
  for (int64_t n = 0; ring_ && n < std::min(layer_.lead, t1 - t0); n++)
    move(ring_ + (t0 + n) % layer_.lead * row(), ring_copy_ + n * row());
}

// How far apart the exponents of what meets in steps [i0,i1) are: the adjoint's own, and those of
// the gradients that arrive (null: none).
template <class T>
int64_t Adjoint<T>::spread(const Worker& m, const int32_t* arriving, int64_t i0, int64_t i1) const {
  int64_t least = INT64_MAX, most = INT64_MIN;
  auto meet = [&](int64_t exponent) {
    least = std::min(least, exponent);
    most = std::max(most, exponent);
  };
  if (band_.look(m.me) > 0) meet(band_.exponent(m.me));
  for (int64_t i = i0; arriving && i < i1; i++)
    if (arriving[i] != no_exponent) meet(arriving[i]);
  return least > most ? 0 : most - least;
}

// ---- steps

// Steps [i0,i1) at one exponent; returns the largest element of the adjoint after them.
template <class T>
double Adjoint<T>::walk_steps(Worker& m, LayerView<T> view, int64_t i0, int64_t i1,
                              const int32_t* arriving, int32_t* exponents) {
  const bool scales = !context_.call.no_scaling;
  int32_t needed = no_exponent;
  for (int64_t i = i0; arriving && i < i1; i++) needed = std::max(needed, arriving[i]);
  if (scales)
    band_.adjust(
        m.me, needed,
        [&] { return std::max(band_.look(m.me), context_.crew.reduce_max(m, largest_in_ring(m))); },
        [&](T factor) { scale(m, factor); });
  const int32_t exponent = band_.exponent(m.me);
  T* factors = factors_[m.me];
  for (int64_t i = i0; i < i1; i++) {
    const bool arrives = arriving && arriving[i] != no_exponent;
    factors[i] = arrives ? power_of_two<T>(static_cast<int64_t>(arriving[i]) - exponent) : T(0);
    exponents[i] = exponent;
  }
  if (i1 - i0 > 1 && scales) copy_steps(m, view.first + i0, view.first + i1, false);
  view.dy_factor = factors;
  if (needed == no_exponent) view.dy = nullptr;
  each_share(m, [&](const Share& s) {
    context_.kernels.cells[layer_.spec.cell].backward(view, i0, i1, s, *m.team, m.me);
  });
  if (!scales) return 0;
  return context_.crew.reduce_max(m, largest(m, view.first + i0, view.first + i1));
}

// Eight steps at a time. One by one where exponents that meet are so far apart that the smaller
// could underflow and yet grow within the eight, and where eight steps have grown too much.
template <class T>
void Adjoint<T>::walk(Worker& m, LayerView<T> view, int64_t n, const Gradient<T>& arriving,
                      int32_t* exponents) {
  constexpr int headroom = std::numeric_limits<T>::max_exponent / 2;
  view.dy = arriving.rows;
  const int32_t* incoming = arriving.rows ? arriving.exponents : nullptr;
  for (int64_t i1 = n; i1 > 0;) {
    const int64_t i0 = (i1 - 1) / look_steps * look_steps, t0 = view.first + i0,
                  t1 = view.first + i1;
    bool singly = i1 - i0 == 1 ||
                  (!context_.call.no_scaling && spread(m, incoming, i0, i1) > ScaleBand<T>::width);
    if (!singly) {
      const double look = walk_steps(m, view, i0, i1, incoming, exponents);
      singly = !std::isfinite(look) || exponent_of(look) > headroom;
      if (singly)
        copy_steps(m, t0, t1, true);
      else
        band_.see(m.me, look);
    }
    for (int64_t i = i1 - 1; singly && i >= i0; i--) {
      const double look = walk_steps(m, view, i, i + 1, incoming, exponents);
      band_.see(m.me, look);
      if (!std::isfinite(look)) {
        context_.crew.report_if_first(m.me, {index_, view.first + i, 0, true});
        std::fill(exponents, exponents + i1, 0);
        return;
      }
    }
    i1 = i0;
  }
}

// ---- the ends

template <class T>
void Adjoint<T>::write_dstate(const Worker& m) {
  gc_call& call = context_.call;
  T* states = static_cast<T*>(call.dstate);
  gather_dstate(context_, layer_, d_, ring_, states);
  T* out = states + context_.state_place(layer_, 0);
  const int64_t count = state_elements(layer_, context_.timeline.batch);
  double most = 0;
  for (int64_t i = 0; i < count; i++) most = std::max(most, std::fabs(static_cast<double>(out[i])));
  int32_t& exponent = call.dstate_exponent[layer_.direction];
  exponent = band_.exponent(m.me);
  if (!fits<T>(most, exponent)) return;
  for (int64_t i = 0; i < count; i++) out[i] = static_cast<T>(std::ldexp(out[i], exponent));
  exponent = 0;
}

// The ring's slot t mod lag was sent to step t - lag, counted from where the sequence begins.
template <class T>
void gather_dstate(const Context<T>& context, const Layer& layer, const T* d, const T* ring,
                   T* states) {
  const int64_t B = context.timeline.batch, H = layer.H, row = B * layer.Hp;
  T* out = states + context.state_place(layer, 0);
  for (int64_t r = 0; r < layer.lead; r++)
    for (int64_t b = 0; b < B; b++) {
      const int64_t slot = (r + context.timeline.begin(b)) % layer.lead, at = b * layer.Hp;
      for (int64_t u = 0; u < H; u++) {
        T value = ring ? ring[slot * row + at + u] : T(0);
        if (r == layer.lead - 1) value += d[at + u];
        out[(r * B + b) * H + u] = value;
      }
    }
  for (int64_t s = 1; s < layer.states; s++)
    for (int64_t b = 0; b < B; b++)
      copy(out + ((layer.lead + s - 1) * B + b) * H, d + s * row + b * layer.Hp, H);
}

template <class T>
void load_final_cotangents(const Context<T>& context, const Layer& layer, T* d, T* ring) {
  const gc_cotangents& given = context.call.cotangents;
  const Timeline& timeline = context.timeline;
  const int64_t B = timeline.batch, K = given.count, row = B * K * layer.Hp, H = layer.H;
  for (int64_t r = 0; r < B * K; r++) {
    const int64_t b = r / K, end = timeline.end(b);
    const T* state = static_cast<const T*>(given.final_state) + context.state_place(layer, r % K);
    // Row q of the outputs in a state belongs to step end - lead + q.
    for (int64_t q = 0; q < layer.lead; q++) {
      if (end > 0 && end - layer.lead + q < timeline.cleared(b)) continue;
      T* to = q == layer.lead - 1 ? d : ring + (end + q) % layer.lead * row;
      copy(to + r * layer.Hp, state + (q * B + b) * H, H);
    }
    for (int64_t s = 1; s < layer.states; s++)
      copy(d + s * row + r * layer.Hp, state + ((layer.lead + s - 1) * B + b) * H, H);
  }
}

template class Adjoint<float>;
template class Adjoint<double>;
template void gather_dstate(const Context<float>&, const Layer&, const float*, const float*,
                            float*);
template void gather_dstate(const Context<double>&, const Layer&, const double*, const double*,
                            double*);
template void load_final_cotangents(const Context<float>&, const Layer&, float*, float*);
template void load_final_cotangents(const Context<double>&, const Layer&, double*, double*);

}  // namespace gradcore
