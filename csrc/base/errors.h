// Errors inside the core: one exception with a status, thrown only outside parallel regions and
// caught once, at the C ABI.
#pragma once
#include <gradcore/gradcore.h>

#include <stdexcept>
#include <string>

namespace gradcore {

class Error : public std::runtime_error {
 public:
  Error(gc_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  gc_status status() const noexcept { return status_; }

 private:
  gc_status status_;
};

// Formats like printf; every message says what was expected, what was given, and what to do.
[[noreturn]] void fail(gc_status status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// Runs body(); turns an Error, std::bad_alloc or any other exception into a status and the thread's
// last message.
void set_last_error(const std::string& message) noexcept;
gc_status status_of_current_exception() noexcept;

template <class F>
gc_status guarded(F&& body) noexcept {
  try {
    body();
    return GC_OK;
  } catch (...) {
    return status_of_current_exception();
  }
}

}  // namespace gradcore
