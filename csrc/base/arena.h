// Memory of a call: one aligned region, reused between calls so that steady state does not
// page-fault.
#pragma once
#include <cstddef>
#include <cstdint>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace gradcore {

// Carves arrays out of a region. With base == nullptr it only counts: the same code sizes a layout
// and builds it. Under AddressSanitizer the arrays lie apart and what is between them may not be
// touched.
class Carver {
 public:
  explicit Carver(void* base = nullptr) noexcept : base_(static_cast<char*>(base)) {}
  // 64-byte aligned; contents are whatever an earlier call left.
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
