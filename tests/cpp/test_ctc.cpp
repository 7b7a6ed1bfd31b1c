// Connectionist temporal classification through the C ABI, for the sanitizers; the comparisons with
// the sum over all alignments are in Python.
#include <gradcore/gradcore.h>

#include <cmath>
#include <vector>

#include "check.h"

namespace {

// Equal logits: every alignment has the probability classes^-steps, and there are `alignments`.
template <class T>
void equal_logits(gc_dtype dtype, int64_t steps, std::vector<int64_t> labels, double alignments,
                  int32_t threads) {
  constexpr int64_t batch = 3, classes = 5;
  const auto count = static_cast<int64_t>(labels.size());
  const std::vector<int64_t> counts(batch, count), lengths{steps, steps, steps};
  std::vector<int64_t> all;
  for (int64_t b = 0; b < batch; b++) all.insert(all.end(), labels.begin(), labels.end());
  const std::vector<T> outputs(static_cast<size_t>(steps * batch * classes), T(1));
  std::vector<T> gradient(outputs.size());
  std::vector<double> losses(batch);
  gc_ctc call{};
  call.dtype = dtype;
  call.steps = steps;
  call.batch = batch;
  call.classes = classes;
  call.outputs = outputs.data();
  call.lengths = lengths.data();
  call.labels = all.data();
  call.label_counts = counts.data();
  call.threads = threads;
  call.losses = losses.data();
  call.d_outputs = gradient.data();
  CHECK(gc_ctc_bytes(&call) > 0);
  CHECK_EQUAL(gc_ctc_loss(&call), GC_OK);
  const double want = static_cast<double>(steps) * std::log(5.0) - std::log(alignments);
  for (int64_t b = 0; b < batch; b++) {
    CHECK(std::fabs(losses[static_cast<size_t>(b)] - want) < 1e-12 * (1 + want));
    for (int64_t t = 0; t < steps; t++) {
      double sum = 0;
      for (int64_t c = 0; c < classes; c++)
        sum += static_cast<double>(gradient[static_cast<size_t>((t * batch + b) * classes + c)]);
      CHECK(std::fabs(sum) < 1e-6);
    }
  }
  std::vector<int64_t> found(static_cast<size_t>(batch * steps)), found_counts(batch);
  gc_ctc_search search{};
  search.dtype = dtype;
  search.steps = steps;
  search.batch = batch;
  search.classes = classes;
  search.outputs = outputs.data();
  search.threads = threads;
  search.labels = found.data();
  search.label_counts = found_counts.data();
  search.scores = losses.data();
  for (const int64_t beam : {0, 1, 7}) {
    search.beam = beam;
    CHECK_EQUAL(gc_ctc_decode(&search), GC_OK);
    for (const int64_t length : found_counts) CHECK(length >= 0 && length <= steps);
  }
  all[0] = classes;
  CHECK_EQUAL(gc_ctc_loss(&call), count ? GC_INVALID : GC_OK);
}

}  // namespace

TEST(ctc_of_equal_logits) {
  for (const int32_t threads : {1, 2}) {
    // One label in n steps: a run of it begins and ends anywhere, n (n + 1) / 2 alignments.
    for (const int64_t steps : {1, 2, 9, 40}) {
      const auto n = static_cast<double>(steps);
      equal_logits<float>(GC_FLOAT32, steps, {3}, n * (n + 1) / 2, threads);
      equal_logits<double>(GC_FLOAT64, steps, {3}, n * (n + 1) / 2, threads);
    }
    // As many labels as steps, all different from their neighbours: one alignment.
    equal_logits<double>(GC_FLOAT64, 8, {1, 2, 3, 4, 1, 2, 3, 4}, 1, threads);
    equal_logits<float>(GC_FLOAT32, 17, {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1}, 1,
                        threads);
  }
}
