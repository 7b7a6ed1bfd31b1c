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

void Layout::add(size_t bytes, Owner owner) {
  arrays_.push_back({bytes, -1, {owner}});
  bytes_ += room(bytes);
}

void Layout::add_shared(int scratch, size_t bytes, Owner owner) {
  for (Array& array : arrays_) {
    if (array.scratch != scratch) continue;
    if (bytes > array.bytes) {
      bytes_ += room(bytes) - room(array.bytes);
      array.bytes = bytes;
    }
    array.owners.push_back(owner);
    return;
  }
  arrays_.push_back({bytes, scratch, {owner}});
  bytes_ += room(bytes);
}

void Layout::place(void* region) const noexcept {
  auto* at = static_cast<char*>(region);
  for (const Array& array : arrays_) {
    fence(at, array.bytes, room(array.bytes));
    for (const Owner& owner : array.owners) owner.set(owner.pointer, at);
    at += room(array.bytes);
  }
}

}  // namespace gradcore
