// Where the arrays of a call lie in its region of memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gradcore {

// Objects announce the arrays that they need; when all have done so, their bytes are known, and
// once there is a region of that size, place() tells every object where its arrays lie. Arrays
// begin at multiples of 64 bytes and hold whatever an earlier call left there. Under
// AddressSanitizer they lie apart, and what is between them may not be touched.
class Layout {
 public:
  // An array of `count` elements. `array` is null until place() and must not move before it.
  template <class T>
  void announce(T*& array, int64_t count) {
    own(add(bytes_of<T>(count), -1), &array, &set<T>);
  }
  // An array that all who name the same `scratch` share: it is as long as the longest of them. Who
  // shares an array must not need it at the same time as another who does.
  template <class T>
  void share(int scratch, T*& array, int64_t count) {
    own(add(bytes_of<T>(count), scratch), &array, &set<T>);
  }
  size_t bytes() const noexcept { return bytes_; }
  // `region` has bytes() bytes.
  void place(void* region) noexcept;

 private:
  struct Array {
    size_t bytes;
    int scratch;  // -1: not shared
    char* at;
  };
  struct Owner {
    size_t array;
    void* pointer;                         // a T**
    void (*set)(void* pointer, char* at);  // knows T
  };

  template <class T>
  static size_t bytes_of(int64_t count) {
    return static_cast<size_t>(count) * sizeof(T);
  }
  template <class T>
  static void set(void* pointer, char* at) {
    *static_cast<T**>(pointer) = reinterpret_cast<T*>(at);
  }
  // The index of a new array, or of the one that is shared already.
  size_t add(size_t bytes, int scratch);
  void own(size_t array, void* pointer, void (*set)(void*, char*));

  std::vector<Array> arrays_;
  std::vector<Owner> owners_;
  size_t bytes_ = 0;
};

}  // namespace gradcore
