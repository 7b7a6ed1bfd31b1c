// The head and the loss of a chunk: logits, loss terms, and the gradient that arrives at the last
// layer's outputs.
#include <algorithm>
#include <cmath>

#include "sequence/job.h"

namespace gradcore {

// What a term at (t, b) counts in the loss before the mean's 1/N; 0: it is not there.
template <class T>
T Job<T>::row_weight(int64_t t, int64_t b) const {
  const int64_t length = call_.lengths ? call_.lengths[b] : T_;
  if (t >= length || (call_.loss_last && t != length - 1)) return 0;
  const int64_t row = call_.loss_last ? b : t * B_ + b;
  T weight = call_.weight ? static_cast<const T*>(call_.weight)[row] : T(1);
  if (call_.loss == GC_LOSS_CROSS_ENTROPY) {
    const int64_t target = static_cast<const int64_t*>(call_.target)[row];
    if (target == call_.ignore_index) return 0;
    if (call_.class_weight) weight *= static_cast<const T*>(call_.class_weight)[target];
  }
  return weight;
}

// Known before the pass, so that no gradient has to be divided after it.
template <class T>
double Job<T>::total_weight() const {
  const bool ones =
      !call_.lengths && !call_.weight && !call_.loss_last && call_.loss != GC_LOSS_CROSS_ENTROPY;
  if (ones) return static_cast<double>(T_ * B_);
  double total = 0;
  for (int64_t t0 = 0; t0 < T_; t0 += block_steps) {
    double block = 0;
    for (int64_t t = t0; t < std::min(t0 + block_steps, T_); t++)
      for (int64_t b = 0; b < B_; b++) block += static_cast<double>(row_weight(t, b));
    total += block;
  }
  return total;
}

template <class T>
void Job<T>::logits(int64_t first, int64_t r0, int64_t r1) {
  const Layer& top = net_.top();
  const int reader = static_cast<int>(L_);
  transform_rows(reader, first, r0, r1);
  const T* in = input_rows(reader, first);
  if (net_.has_head)
    k_.dense(logits_, net_.Op, w_head_, bias_head_, in, top.Hp, head_runs_, top.nb, r0, r1, 0,
             static_cast<int32_t>(net_.ob));
  else
    std::memcpy(logits_ + r0 * net_.Op, in + r0 * net_.Op,
                static_cast<size_t>((r1 - r0) * net_.Op) * sizeof(T));
}

// Rows [r0,r1) of logits become the gradient of the loss; row_loss gets the terms, row_weight what
// each counts.
template <class T>
void Job<T>::loss_rows(int64_t first, int64_t r0, int64_t r1) {
  const int64_t O = net_.outputs, Op = net_.Op;
  for (int64_t r = r0; r < r1; r++) {
    row_weight_[r] = row_weight(first + r / B_, r % B_);
    const int64_t row = call_.loss_last ? r % B_ : first * B_ + r;
    if (call_.loss == GC_LOSS_CROSS_ENTROPY)
      row_target_[r] = static_cast<const int64_t*>(call_.target)[row];
  }
  if (call_.loss == GC_LOSS_CROSS_ENTROPY) {
    k_.cross_entropy(logits_, Op, O, row_target_, row_weight_, loss_factor_, row_loss_, r0, r1);
    return;
  }
  for (int64_t r = r0; r < r1; r++) {
    T* z = logits_ + r * Op;
    row_loss_[r] = 0;
    if (row_weight_[r] == 0) {
      std::memset(z, 0, static_cast<size_t>(Op) * sizeof(T));
      continue;
    }
    const T* y =
        static_cast<const T*>(call_.target) + (call_.loss_last ? r % B_ : first * B_ + r) * O;
    const double weight = static_cast<double>(row_weight_[r]);
    if (call_.loss == GC_LOSS_MSE) {
      row_loss_[r] = k_.squared_error(z, y, O, weight, loss_factor_);
      continue;
    }
    for (int64_t o = 0; o < O; o++) {
      // log(1 + e^x) - x y, arranged so that no exponential overflows.
      const double x = static_cast<double>(z[o]), target = static_cast<double>(y[o]);
      const double e = std::exp(-std::fabs(x));
      row_loss_[r] += weight * (std::max(x, 0.0) - x * target + std::log1p(e));
      z[o] =
          static_cast<T>(weight * loss_factor_ * ((x >= 0 ? 1 / (1 + e) : e / (1 + e)) - target));
    }
  }
}

// The same where the gradients are there already: a callback's, of the whole range, or the
// caller's.
template <class T>
void Job<T>::given_rows(int64_t first, int64_t r0, int64_t r1) {
  const int64_t O = net_.outputs, Op = net_.Op;
  const bool callback = call_.loss == GC_LOSS_CALLBACK;
  const T* rows = callback ? range_d_outputs_ : static_cast<const T*>(call_.d_outputs);
  const int64_t origin = callback ? op_t0_ : 0;
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_;
    const T* from = rows + ((t - origin) * B_ + b) * O;
    T* z = logits_ + r * Op;
    const bool active = !call_.lengths || t < call_.lengths[b];
    row_weight_[r] = 0;
    row_loss_[r] = 0;
    for (int64_t o = 0; o < Op; o++) {
      z[o] = active && o < O ? from[o] : T(0);
      if (z[o] != 0) row_weight_[r] = 1;
    }
  }
}

// Chunk sums in the order of rows; they are added up in the order of chunks at the end.
template <class T>
void Job<T>::sum_loss(int64_t first, int64_t n) {
  double sum = 0;
  for (int64_t r = 0; r < n * B_; r++) sum += row_loss_[r];
  chunk_loss_[first / chunk_] = sum;
  if (std::isfinite(sum)) return;
  for (int64_t r = 0; r < n * B_; r++)
    if (!std::isfinite(row_loss_[r])) {
      if (offenders_[0].layer > L_) offenders_[0] = {L_, first + r / B_, r % B_, false};
      return;
    }
}

// Outputs of this thread's rows of the chunk to base [.][B][O], whose first step is `origin`; zeros
// for sequences past their end.
template <class T>
void Job<T>::copy_outputs(T* base, int64_t origin, int64_t first, int64_t r0, int64_t r1) {
  const int64_t O = net_.outputs;
  for (int64_t r = r0; r < r1; r++) {
    const int64_t t = first + r / B_, b = r % B_;
    T* to = base + ((t - origin) * B_ + b) * O;
    if (call_.lengths && t >= call_.lengths[b])
      std::memset(to, 0, static_cast<size_t>(O) * sizeof(T));
    else
      std::memcpy(to, logits_ + r * net_.Op, static_cast<size_t>(O) * sizeof(T));
  }
}

// Outputs to the caller's array, terms to the loss.
template <class T>
void Job<T>::emit(const Me& m, int64_t first, int64_t n) {
  const bool terms = has_terms();
  if (!call_.outputs && !terms) return;
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  logits(first, r0, r1);
  if (call_.outputs) copy_outputs(static_cast<T*>(call_.outputs), 0, first, r0, r1);
  if (!terms) return;
  loss_rows(first, r0, r1);
  barrier(m);
  if (m.me == 0) sum_loss(first, n);
}

// Outputs of the whole range to the callback, its gradients back. False: stop.
template <class T>
bool Job<T>::call_loss(Me& m, int64_t t0, int64_t t1) {
  for (int64_t first = t0; first < t1; first += chunk_) {
    int64_t r0, r1;
    rows_of(m, std::min(chunk_, t1 - first), r0, r1);
    if (net_.top().pass) stage_input(m, first, std::min(chunk_, t1 - first));
    logits(first, r0, r1);
    copy_outputs(range_outputs_, t0, first, r0, r1);
    // A shorter last chunk divides its rows elsewhere: nobody may write logits that another reads.
    barrier(m);
  }
  if (m.me == 0) {
    std::memset(range_d_outputs_, 0,
                static_cast<size_t>((t1 - t0) * B_ * net_.outputs) * sizeof(T));
    double loss = 0;
    {
      const Callback outside(*m.team);
      if (call_.loss_fn(call_.loss_context, range_outputs_, range_d_outputs_, t0, t1, &loss))
        callback_stopped_ = true;
    }
    chunk_loss_[t0 / chunk_] = loss;
    if (!std::isfinite(loss) && !callback_stopped_) offenders_[0] = {L_, t0, 0, false};
  }
  return verdict(m) == Verdict::go_on;
}

// Returns dy [n][B][Hp] for the last layer, or null if no loss term lies in the chunk; trace_in
// gets 0 or no_exponent by step.
template <class T>
const T* Job<T>::backward_head(Me& m, int64_t first, int64_t n) {
  const Layer& top = net_.top();
  int64_t r0, r1;
  rows_of(m, n, r0, r1);
  auto& chain = chains_[static_cast<size_t>(L_)];
  const int reader = static_cast<int>(L_);
  if (!has_terms()) {
    transform_rows(reader, first, r0, r1);
    if (K_) {
      if (top.pass) stage_tangents(m, first, r0, r1);
      tangent_logits(m, first, r0, r1);
      // What is given does not depend on the outputs.
      std::memset(t_logits_ + r0 * net_.Op, 0,
                  static_cast<size_t>((r1 - r0) * net_.Op) * sizeof(T));
    }
    given_rows(first, r0, r1);
  } else if (loss_at_all(first, n)) {
    logits(first, r0, r1);
    if (K_ && top.pass) stage_tangents(m, first, r0, r1);
    if (K_) tangent_logits(m, first, r0, r1);
    loss_rows(first, r0, r1);
    if (K_) bend_loss(first, r0, r1);
  } else {
    std::fill(row_weight_ + r0, row_weight_ + r1, T(0));
    std::fill(row_loss_ + r0, row_loss_ + r1, 0.0);
  }
  barrier(m);
  if (m.me == 0 && has_terms()) sum_loss(first, n);
  bool any = false;
  for (int64_t i = 0; i < n; i++) {
    m.trace_in[i] = no_exponent;
    for (int64_t b = 0; b < B_; b++)
      if (row_weight_[i * B_ + b] != 0) m.trace_in[i] = 0;
    any = any || m.trace_in[i] == 0;
  }
  if (net_.has_head && any) {
    k_.dense(chain.empty() ? dy_[0] : chain.back().d, top.Hp, w_head_t_, nullptr, logits_, net_.Op,
             logit_runs_, net_.ob, r0, r1, 0, static_cast<int32_t>(top.nb));
    const int64_t k0 = top.H * m.me / m.team_size, k1 = top.H * (m.me + 1) / m.team_size;
    k_.outer_dense(head_part_, input_rows(reader, first), top.Hp, top.H, logits_, net_.Op, n * B_,
                   0, static_cast<int32_t>(net_.ob), k0, k1);
    if (m.me == 0 && net_.head_bias)
      k_.column_sum(head_part_ + head_at_bias_, logits_, net_.Op, n * B_, 0, net_.Op);
  }
  if (any && !chain.empty()) {
    transforms_backward(reader, first, r0, r1, dy_[0]);
    if (trains_transforms(reader)) {
      barrier(m);
      transform_gradients(m, reader, first, 0, n, head_part_);
    }
  }
  if (hessian_) curvature_head(m, first, n, any);
  barrier(m);
  if (head_sums_ && first % block_steps == 0 && m.me == 0)
    k_.add_block(head_sum_, head_part_, head_sums_, T(1), T(1));
  if (!any) return nullptr;
  return net_.has_head || !chain.empty() ? dy_[0] : logits_;
}

template <class T>
bool Job<T>::loss_at_all(int64_t first, int64_t n) const {
  if (!call_.loss_last) return true;
  if (!call_.lengths) return first + n == T_;
  for (int64_t b = 0; b < B_; b++)
    if (call_.lengths[b] > first && call_.lengths[b] <= first + n) return true;
  return false;
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
