// How a team divides a layer's work, and how it agrees.
#include "sequence/job.h"

namespace gradcore {

// This thread's part of the rows of n steps.
template <class T>
void Job<T>::rows_of(const Me& m, int64_t n, int64_t& r0, int64_t& r1) const {
  r0 = n * B_ * m.me / m.team_size;
  r1 = n * B_ * (m.me + 1) / m.team_size;
}

// The largest value of any thread, the same for all; one barrier. Two sets of slots in turn: the
// next call writes the other set, and the one after that comes behind a barrier that nobody passes
// before all have read.
template <class T>
double Job<T>::reduce_max(Me& m, double value) {
  if (m.team_size == 1) return value;
  slots_[m.me].value[m.parity] = value;
  barrier(m);
  for (int i = 0; i < m.team_size; i++)
    value = slots_[i].value[m.parity] > value ? slots_[i].value[m.parity] : value;
  m.parity ^= 1;
  return value;
}

// At the end of a chunk: go on, go on with one thread (the others leave), or stop since a value was
// not finite or a callback said so.
template <class T>
Verdict Job<T>::verdict(Me& m) {
  Verdict mine = Verdict::go_on;
  if (offenders_[m.me].layer != INT64_MAX) mine = Verdict::stop;
  if (m.me == 0) {
    poll(*m.team);
    if (interrupted_ || callback_stopped_)
      mine = Verdict::stop;
    else if (mine == Verdict::go_on && m.team_size > 1 && m.team->starved())
      mine = Verdict::one_thread;
  }
  const auto all = static_cast<Verdict>(static_cast<int>(reduce_max(m, static_cast<double>(mine))));
  if (all == Verdict::one_thread) {
    if (m.me != 0) return Verdict::stop;
    m.team->dissolve();
    m.team_size = 1;
    return Verdict::go_on;
  }
  return all;
}

template class Job<float>;
template class Job<double>;

}  // namespace gradcore
