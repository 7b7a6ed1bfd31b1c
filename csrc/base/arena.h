// The memory of a call: one aligned region, which later calls reuse, so that a loop of calls has no
// page faults after the first ones.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gradcore {

// A region from a locked free list, to which it returns. Regions of 2 MB and more ask for huge
// pages. A kept region is reused for anything that fits, and goes back to the system when hundreds
// of uses in a row needed less than half of it, or did not need it; so the kept memory is that of
// the largest recent calls.
//
// The user may keep a result for a long time. It takes a region of at most twice its size, so that
// no small result occupies a large region that calls could use.
enum class Holds { call, result };

class Arena {
 public:
  explicit Arena(size_t bytes, Holds holds = Holds::call);  // throws Error(GC_NO_MEMORY)
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  void* data() const noexcept { return data_; }

 private:
  void* data_;
  size_t capacity_;
  int underused_;  // number of uses in a row that needed less than half of it
};

void release_arenas() noexcept;

}  // namespace gradcore
