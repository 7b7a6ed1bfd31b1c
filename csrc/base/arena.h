// Memory of a call: one aligned region, reused between calls so that steady state does not
// page-fault.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gradcore {

// Carves arrays out of a region. With base == nullptr it only counts: the same code sizes a layout
// and builds it.
class Carver {
 public:
  explicit Carver(void* base = nullptr) noexcept : base_(static_cast<char*>(base)) {}
  // 64-byte aligned; contents are whatever an earlier call left.
  template <class T>
  T* take(int64_t count) noexcept {
    char* p = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(p);
  }
  size_t used() const noexcept { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// A region drawn from a locked free list and given back to it. Regions of 2 MB and more ask for
// huge pages. A kept region is reused only where it is not far larger than asked for; total kept
// memory is bounded by the largest recent calls.
class Arena {
 public:
  explicit Arena(size_t bytes);  // throws Error(GC_NO_MEMORY)
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  void* data() const noexcept { return data_; }

 private:
  void* data_;
  size_t capacity_;
};

void release_arenas() noexcept;

}  // namespace gradcore
