// Connectionist temporal classification (Graves, Fernandez, Gomez, Schmidhuber 2006, section 4):
// the loss of each sequence and its gradient by the outputs.
//
// Forward variables of all steps would take T * (2 * labels + 1) numbers. They are kept at every
// k-th step, k about sqrt(T), and computed again for one stretch of k steps after the other, from
// the last to the first, while the backward variables pass over it.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <limits>
#include <vector>

#include "base/arena.h"
#include "base/dispatch.h"
#include "base/errors.h"
#include "base/layout.h"
#include "ctc/ctc_table.h"
#include "ctc/sequences.h"

namespace gradcore {

GRADCORE_DISPATCH(CtcKernels, ctc_kernels, ctc_kernels)

namespace {

int64_t whole_cells(int64_t count) { return (count + ctc_pad - 1) / ctc_pad * ctc_pad; }

// The sizes of one thread's arrays, for the longest sequence and the most labels.
struct Sizes {
  int64_t classes;  // padded
  int64_t cells;    // of a row, padded
  int64_t stretch;  // steps whose forward variables are held at a time
  int64_t kept;     // rows between stretches
};

// The arrays of one thread.
struct Room {
  double* rows = nullptr;       // [kept + stretch + 2][4][pad + cells + pad]
  double* classes_m = nullptr;  // [stretch][classes] probabilities of the classes
  double* classes_e = nullptr;
  double* logits = nullptr;   // [classes]
  double* label_m = nullptr;  // [cells + pad] of the labels of a step
  double* label_e = nullptr;
  double* follows = nullptr;
  double* shares = nullptr;    // [cells]
  double* occupied = nullptr;  // [classes] share of each class in a step
};

void lay_out(Layout& layout, const Sizes& sizes, Room& room) {
  const int64_t row = 4 * (sizes.cells + 2 * ctc_pad), steps = sizes.stretch * sizes.classes;
  layout.announce(room.rows, (sizes.kept + sizes.stretch + 2) * row);
  layout.announce(room.classes_m, steps);
  layout.announce(room.classes_e, steps);
  layout.announce(room.logits, sizes.classes);
  layout.announce(room.label_m, sizes.cells + ctc_pad);
  layout.announce(room.label_e, sizes.cells + ctc_pad);
  layout.announce(room.follows, sizes.cells + ctc_pad);
  layout.announce(room.shares, sizes.cells);
  layout.announce(room.occupied, sizes.classes);
}

template <class T>
class Sequence {
 public:
  Sequence(const gc_ctc& call, const Sizes& sizes, const Room& room, int64_t b,
           const int64_t* labels)
      : call_(call),
        sizes_(sizes),
        r_(room),
        k_(ctc_kernels()),
        b_(b),
        steps_(call.lengths ? call.lengths[b] : call.steps),
        count_(call.label_counts[b]),
        cells_(whole_cells(count_ + 1)),
        labels_(labels) {}

  void run() {
    prepare();
    const CtcRow last = go_forward();
    const double p = end(last);
    const bool possible = p > 0;
    call_.losses[b_] = possible ? -(std::log(p) + p_exponent_ * std::log(2.0))
                                : std::numeric_limits<double>::infinity();
    if (!call_.d_outputs) return;
    if (possible)
      go_back(p);
    else
      for (int64_t t = 0; t < steps_; t++) clear(t);
    for (int64_t t = steps_; t < call_.steps; t++) clear(t);
  }

 private:
  // Row i of those that are kept; of the stretch that is held; and the two that take turns.
  CtcRow kept(int64_t i) const { return row(i); }
  CtcRow held(int64_t i) const { return row(sizes_.kept + i); }
  CtcRow turn(int64_t i) const { return row(sizes_.kept + sizes_.stretch + i % 2); }
  CtcRow row(int64_t i) const {
    const int64_t width = sizes_.cells + 2 * ctc_pad;
    double* at = r_.rows + i * 4 * width + ctc_pad;
    return {at, at + width, at + 2 * width, at + 3 * width};
  }

  void erase(const CtcRow& row) const {
    for (double* m : {row.blank_m, row.label_m}) std::fill(m - ctc_pad, m + cells_ + ctc_pad, 0.0);
    for (double* e : {row.blank_e, row.label_e})
      std::fill(e - ctc_pad, e + cells_ + ctc_pad, no_ctc_exponent);
  }
  void copy(const CtcRow& to, const CtcRow& from) const {
    std::copy(from.blank_m, from.blank_m + cells_, to.blank_m);
    std::copy(from.blank_e, from.blank_e + cells_, to.blank_e);
    std::copy(from.label_m, from.label_m + cells_, to.label_m);
    std::copy(from.label_e, from.label_e + cells_, to.label_e);
  }

  void prepare() {
    for (int64_t i = 0; i < sizes_.kept + sizes_.stretch + 2; i++) erase(row(i));
    std::fill(r_.label_m, r_.label_m + cells_ + ctc_pad, 0.0);
    std::fill(r_.label_e, r_.label_e + cells_ + ctc_pad, no_ctc_exponent);
    std::fill(r_.follows, r_.follows + cells_ + ctc_pad, 0.0);
    for (int64_t i = 1; i < count_; i++) r_.follows[i] = labels_[i] != labels_[i - 1];
    std::fill(r_.logits, r_.logits + sizes_.classes, -std::numeric_limits<double>::infinity());
  }

  // The probabilities of the classes at step t, at place i of the stretch, and of the labels.
  CtcStep emissions(int64_t t, int64_t i) const {
    double *m = r_.classes_m + i * sizes_.classes, *e = r_.classes_e + i * sizes_.classes;
    const double largest = read_logits(call_, t, b_, r_.logits);
    const double scale = 1 / k_.exponentials(m, e, r_.logits, largest, sizes_.classes);
    for (int64_t c = 0; c < call_.classes; c++) m[c] *= scale;
    return step_of(i);
  }
  CtcStep step_of(int64_t i) const {
    const double *m = r_.classes_m + i * sizes_.classes, *e = r_.classes_e + i * sizes_.classes;
    for (int64_t l = 0; l < count_; l++) {
      r_.label_m[l] = m[labels_[l]];
      r_.label_e[l] = e[labels_[l]];
    }
    return {m[call_.blank], e[call_.blank], r_.label_m, r_.label_e, r_.follows, cells_};
  }

  // The row before the first step; it lets a path begin with a blank or with the first label. The
  // one behind the last step lets it end with the last label or a blank.
  void begin(const CtcRow& row, int64_t at) const {
    erase(row);
    row.blank_m[at] = 1;
    row.blank_e[at] = 0;
  }

  // Forward variables of all steps; keeps the row before each stretch. Returns the last row.
  CtcRow go_forward() const {
    begin(turn(0), 0);
    for (int64_t t = 0; t < steps_; t++) {
      if (call_.d_outputs && t % sizes_.stretch == 0) copy(kept(t / sizes_.stretch), turn(t));
      k_.forward(turn(t + 1), turn(t), emissions(t, 0));
    }
    return turn(steps_);
  }

  // The probability of all alignments, as the mantissa that is returned and p_exponent_.
  double end(const CtcRow& last) {
    const double blank = last.blank_m[count_], blank_e = last.blank_e[count_];
    const double label = last.label_m[count_ - 1], label_e = last.label_e[count_ - 1];
    p_exponent_ = std::max(blank_e, label_e);
    return scaled(blank, blank_e - p_exponent_) + scaled(label, label_e - p_exponent_);
  }
  static double scaled(double m, double e) {
    return m == 0 || e < -2000 ? 0 : std::ldexp(m, static_cast<int>(e));
  }

  void go_back(double p) const {
    int shift = 0;  // p = mantissa * 2^shift with a mantissa in [1/2, 1)
    const double inverse = 1 / (2 * std::frexp(p, &shift)), p_e = p_exponent_ + shift - 1;
    int64_t flip = 0;
    begin(turn(flip), count_);
    for (int64_t stretch = (steps_ - 1) / sizes_.stretch; stretch >= 0 && steps_; stretch--) {
      const int64_t first = stretch * sizes_.stretch,
                    end = std::min(first + sizes_.stretch, steps_);
      for (int64_t t = first; t < end; t++)
        k_.forward(held(t - first), t == first ? kept(stretch) : held(t - first - 1),
                   emissions(t, t - first));
      for (int64_t t = end - 1; t >= first; t--, flip++) {
        const CtcStep step = step_of(t - first);
        const double blanks =
            k_.backward(turn(flip + 1), turn(flip), step, held(t - first), inverse, p_e, r_.shares);
        write(t, t - first, blanks);
      }
    }
  }

  // The gradient at step t (eq. 16): the probability of each class minus the share of its states.
  void write(int64_t t, int64_t i, double blanks) const {
    std::fill(r_.occupied, r_.occupied + call_.classes, 0.0);
    for (int64_t l = 0; l < count_; l++) r_.occupied[labels_[l]] += r_.shares[l];
    r_.occupied[call_.blank] = blanks;
    const double factor = call_.factors ? call_.factors[b_] : 1;
    const double *m = r_.classes_m + i * sizes_.classes, *e = r_.classes_e + i * sizes_.classes;
    T* to = gradient(t);
    for (int64_t c = 0; c < call_.classes; c++)
      to[c] = static_cast<T>(factor * (scaled(m[c], e[c]) - r_.occupied[c]));
  }
  void clear(int64_t t) const { std::fill_n(gradient(t), call_.classes, T(0)); }
  T* gradient(int64_t t) const {
    return static_cast<T*>(call_.d_outputs) + (t * call_.batch + b_) * call_.classes;
  }

  const gc_ctc& call_;
  const Sizes& sizes_;
  const Room& r_;
  const CtcKernels& k_;
  const int64_t b_, steps_, count_, cells_;
  const int64_t* const labels_;
  double p_exponent_ = 0;
};

void check(const gc_ctc& call) {
  check_sequences(call);
  for (int64_t b = 0; b < call.batch; b++)
    if (call.label_counts[b] < 0)
      fail(GC_INVALID, "label_counts[%" PRId64 "] must not be negative; got %" PRId64 ".", b,
           call.label_counts[b]);
}

void check_labels(const gc_ctc& call) {
  const int64_t* label = call.labels;
  for (int64_t b = 0; b < call.batch; b++)
    for (int64_t i = 0; i < call.label_counts[b]; i++, label++)
      if (*label < 0 || *label >= call.classes || *label == call.blank)
        fail(GC_INVALID,
             "labels must be classes in 0..%" PRId64 " other than the blank, %" PRId64
             "; label %" PRId64 " of sequence %" PRId64 " is %" PRId64 ".",
             call.classes - 1, call.blank, i, b, *label);
}

Sizes sizes_of(const gc_ctc& call) {
  int64_t longest = 1, most = 0;
  for (int64_t b = 0; b < call.batch; b++) {
    longest = std::max(longest, call.lengths ? call.lengths[b] : call.steps);
    most = std::max(most, call.label_counts[b]);
  }
  Sizes sizes{whole_cells(call.classes), whole_cells(most + 1), 1, 0};
  if (!call.d_outputs) return sizes;
  sizes.stretch = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(longest))));
  sizes.kept = (longest + sizes.stretch - 1) / sizes.stretch;
  return sizes;
}

template <class T>
void all_sequences(gc_ctc& call) {
  check_labels(call);
  const Sizes sizes = sizes_of(call);
  std::vector<Room> rooms(static_cast<size_t>(team_of(call)));
  Layout layout;
  for (Room& room : rooms) lay_out(layout, sizes, room);
  const Arena arena(layout.bytes());
  layout.place(arena.data());
  std::vector<const int64_t*> labels;
  const int64_t* at = call.labels;
  for (int64_t b = 0; b < call.batch; b++) {
    labels.push_back(at);
    at += call.label_counts[b];
  }
  for_sequences(call, [&](size_t me, int64_t b) {
    Sequence<T>(call, sizes, rooms[me], b, labels[static_cast<size_t>(b)]).run();
  });
}

}  // namespace
}  // namespace gradcore

extern "C" int64_t gc_ctc_bytes(const gc_ctc* call) {
  using namespace gradcore;
  int64_t bytes = -1;
  guarded([&] {
    check(*call);
    const Sizes sizes = sizes_of(*call);
    std::vector<Room> rooms(static_cast<size_t>(team_of(*call)));
    Layout layout;
    for (Room& room : rooms) lay_out(layout, sizes, room);
    bytes = static_cast<int64_t>(layout.bytes());
  });
  return bytes;
}

extern "C" gc_status gc_ctc_loss(gc_ctc* call) {
  using namespace gradcore;
  return guarded([&] {
    check(*call);
    if (call->dtype == GC_FLOAT32)
      all_sequences<float>(*call);
    else
      all_sequences<double>(*call);
  });
}
