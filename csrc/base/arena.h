// The memory of a call: one aligned region, which later calls reuse, so that a loop of calls has no
// page faults after the first ones.
#pragma once
#include <cstddef>
#include <cstdint>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace gradcore {

// Divides a region into arrays. With base == nullptr it only counts bytes, so the same code
// computes the size of a layout and builds it. Under AddressSanitizer there are gaps between the
// arrays, and any access to them is an error.
class Carver {
 public:
  explicit Carver(void* base = nullptr) noexcept : base_(static_cast<char*>(base)) {}
  // 64-byte aligned; the contents are those that an earlier call left.
  template <class T>
  T* take(int64_t count) noexcept {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t taken = (bytes + 63) / 64 * 64 + gap;
    char* p = base_ ? base_ + used_ : nullptr;
    used_ += taken;
    fence(p, bytes, taken);
    return reinterpret_cast<T*>(p);
  }
  size_t used() const noexcept { return used_; }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t gap = 64;
  static void fence(char* p, size_t bytes, size_t taken) noexcept {
    if (!p) return;
    __asan_unpoison_memory_region(p, bytes);
    __asan_poison_memory_region(p + bytes, taken - bytes);
  }
#else
  static constexpr size_t gap = 0;
  static void fence(char*, size_t, size_t) noexcept {}
#endif

  char* base_;
  size_t used_ = 0;
};

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
