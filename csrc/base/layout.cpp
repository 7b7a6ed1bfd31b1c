#include "base/layout.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace gradcore {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t gap = 64;
void fence(char* at, size_t bytes, size_t taken) noexcept {
  __asan_unpoison_memory_region(at, bytes);
  __asan_poison_memory_region(at + bytes, taken - bytes);
}
#else
constexpr size_t gap = 0;
void fence(char*, size_t, size_t) noexcept {}
#endif

// Bytes of a region that an array takes up.
size_t room(size_t bytes) noexcept { return (bytes + 63) / 64 * 64 + gap; }

}  // namespace

size_t Layout::add(size_t bytes, int scratch) {
  for (size_t i = 0; scratch >= 0 && i < arrays_.size(); i++) {
    Array& array = arrays_[i];
    if (array.scratch != scratch) continue;
    if (bytes > array.bytes) {
      bytes_ += room(bytes) - room(array.bytes);
      array.bytes = bytes;
    }
    return i;
  }
  arrays_.push_back({bytes, scratch, nullptr});
  bytes_ += room(bytes);
  return arrays_.size() - 1;
}

void Layout::own(size_t array, void* pointer, void (*set)(void*, char*)) {
  owners_.push_back({array, pointer, set});
}

void Layout::place(void* region) noexcept {
  auto* at = static_cast<char*>(region);
  for (Array& array : arrays_) {
    fence(at, array.bytes, room(array.bytes));
    array.at = at;
    at += room(array.bytes);
  }
  for (const Owner& owner : owners_) owner.set(owner.pointer, arrays_[owner.array].at);
}

}  // namespace gradcore
