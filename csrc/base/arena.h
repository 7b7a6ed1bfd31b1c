// Memory of a call: one aligned region, reused between calls so that steady state does not
// page-fault.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gradcore {

// A region drawn from a locked free list and given back to it. Regions of 2 MB and more ask for
// huge pages. A kept region is reused for anything that fits, and goes back to the system when
// hundreds of uses in a row needed less than half of it, or none needed it; so what is kept is what
// the largest recent calls held.
//
// What holds a result may stay with the user for long: it takes a region of at most twice its size,
// so that no small result keeps a large one from the calls.
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
  int underused_;  // how often in a row less than half of it was asked for
};

void release_arenas() noexcept;

}  // namespace gradcore
