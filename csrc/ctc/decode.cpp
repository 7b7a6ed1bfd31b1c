// The most probable labels of each sequence: of the best alignment, or by prefix beam search.
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "ctc/sequences.h"

namespace gradcore {
namespace {

constexpr double impossible = -std::numeric_limits<double>::infinity();

double log_sum(double a, double b) {
  const double high = std::max(a, b), low = std::min(a, b);
  return low == impossible ? high : high + std::log1p(std::exp(low - high));
}

// Log-probabilities of the classes at step t.
void log_softmax(const gc_ctc_search& call, int64_t t, int64_t b, std::vector<double>& row) {
  const double largest = read_logits(call, t, b, row.data());
  double sum = 0;
  for (const double z : row) sum += std::exp(z - largest);
  const double shift = largest + std::log(sum);
  for (double& z : row) z -= shift;
}

// All prefixes that were ever kept, as a tree; a prefix has one number, whenever it comes up again.
class Prefixes {
 public:
  static constexpr int32_t root = 0;

  int32_t parent(int32_t prefix) const { return nodes_[static_cast<size_t>(prefix)].parent; }
  int32_t label(int32_t prefix) const { return nodes_[static_cast<size_t>(prefix)].label; }
  // Numbers it if it is new.
  int32_t child(int32_t parent, int32_t label) {
    int32_t at = nodes_[static_cast<size_t>(parent)].first_child;
    while (at >= 0 && nodes_[static_cast<size_t>(at)].label != label)
      at = nodes_[static_cast<size_t>(at)].sibling;
    if (at >= 0) return at;
    const auto made = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({parent, label, -1, nodes_[static_cast<size_t>(parent)].first_child});
    nodes_[static_cast<size_t>(parent)].first_child = made;
    return made;
  }

 private:
  struct Node {
    int32_t parent, label;
    int32_t first_child, sibling;  // -1: none
  };
  std::vector<Node> nodes_{{-1, -1, -1, -1}};
};

// A prefix with the logs of the probabilities of its alignments that end with a blank, that end
// with its last label, and of all.
struct Candidate {
  int32_t prefix;         // its number; -1: none yet
  int32_t parent, label;  // the prefix without its last label, and that label; -1: it has none
  double blank, other, total;
};

// Prefix beam search (Hannun et al. 2014, algorithm 1, without a language model).
class Search {
 public:
  Search(const gc_ctc_search& call, int64_t b)
      : call_(call), b_(b), children_(static_cast<size_t>(call.classes), -1) {}

  void run() {
    beam_ = {{Prefixes::root, -1, -1, 0, impossible, 0}};
    std::vector<double> row(static_cast<size_t>(call_.classes));
    const int64_t steps = call_.lengths ? call_.lengths[b_] : call_.steps;
    for (int64_t t = 0; t < steps; t++) {
      log_softmax(call_, t, b_, row);
      step(row);
    }
    write();
  }

 private:
  void step(const std::vector<double>& log_p) {
    next_.clear();
    for (const Candidate& c : beam_) {
      const double repeated =
          c.label < 0 ? impossible : c.other + log_p[static_cast<size_t>(c.label)];
      const double blank = c.total + log_p[static_cast<size_t>(call_.blank)];
      next_.push_back({c.prefix, c.parent, c.label, blank, repeated, 0});
    }
    for (const Candidate& c : beam_) extend(c, log_p);
    for (size_t i = 0; i < next_.size(); i++)
      next_[i].total = log_sum(next_[i].blank, next_[i].other);
    keep_best();
  }

  // The prefix with one more label. A label equal to the last one needs a blank between them.
  void extend(const Candidate& c, const std::vector<double>& log_p) {
    for (size_t i = 0; i < beam_.size(); i++)
      if (beam_[i].parent == c.prefix)
        children_[static_cast<size_t>(beam_[i].label)] = static_cast<int32_t>(i);
    for (int32_t label = 0; label < static_cast<int32_t>(call_.classes); label++) {
      int32_t& child = children_[static_cast<size_t>(label)];
      const double p = (label == c.label ? c.blank : c.total) + log_p[static_cast<size_t>(label)];
      if (child >= 0) {  // the longer prefix is in the beam already
        double& other = next_[static_cast<size_t>(child)].other;
        other = log_sum(other, p);
      } else if (label != call_.blank && p != impossible) {
        next_.push_back({-1, c.prefix, label, impossible, p, 0});
      }
      child = -1;
    }
  }

  // Equal candidates keep their order, so that results do not depend on the library's sorting.
  void keep_best() {
    order_.resize(next_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    const auto kept = std::min(order_.size(), static_cast<size_t>(call_.beam));
    const auto better = [&](size_t i, size_t j) {
      return next_[i].total != next_[j].total ? next_[i].total > next_[j].total : i < j;
    };
    std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept),
                      order_.end(), better);
    beam_.clear();
    for (size_t i = 0; i < kept; i++) {
      Candidate& c = next_[order_[i]];
      if (c.prefix < 0) c.prefix = prefixes_.child(c.parent, c.label);
      beam_.push_back(c);
    }
  }

  void write() const {
    const Candidate& best = beam_.front();
    int64_t count = 0;
    for (int32_t at = best.prefix; at != Prefixes::root; at = prefixes_.parent(at)) count++;
    call_.label_counts[b_] = count;
    call_.scores[b_] = best.total;
    int64_t* to = call_.labels + b_ * call_.steps;
    for (int32_t at = best.prefix; at != Prefixes::root; at = prefixes_.parent(at))
      to[--count] = prefixes_.label(at);
  }

  const gc_ctc_search& call_;
  const int64_t b_;
  Prefixes prefixes_;
  std::vector<Candidate> beam_, next_;
  std::vector<size_t> order_;      // of next_, the best first
  std::vector<int32_t> children_;  // [classes] where a prefix's children are in the beam; -1
};

// The most probable class of each step, without repetitions and blanks (Graves et al. 2006,
// section 3.2, best path decoding).
void best_path(const gc_ctc_search& call, int64_t b) {
  std::vector<double> row(static_cast<size_t>(call.classes));
  const int64_t steps = call.lengths ? call.lengths[b] : call.steps;
  int64_t* const to = call.labels + b * call.steps;
  int64_t count = 0, before = call.blank;
  double score = 0;
  for (int64_t t = 0; t < steps; t++) {
    log_softmax(call, t, b, row);
    const int64_t best = std::max_element(row.begin(), row.end()) - row.begin();
    score += row[static_cast<size_t>(best)];
    if (best != call.blank && best != before) to[count++] = best;
    before = best;
  }
  call.label_counts[b] = count;
  call.scores[b] = score;
}

}  // namespace
}  // namespace gradcore

extern "C" gc_status gc_ctc_decode(gc_ctc_search* call) {
  using namespace gradcore;
  return guarded([&] {
    check_sequences(*call);
    if (call->beam < 0) fail(GC_INVALID, "beam must not be negative.");
    for_sequences(*call, [&](size_t, int64_t b) {
      if (call->beam == 0)
        best_path(*call, b);
      else
        Search(*call, b).run();
    });
  });
}
