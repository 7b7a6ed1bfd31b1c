#include "base/errors.h"

#include <cstdarg>
#include <cstdio>
#include <new>

namespace gradcore {

namespace {
thread_local std::string last_error;
}

void fail(gc_status status, const char* format, ...) {
  char text[1024];  // longer messages are truncated
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(status, text);
}

void set_last_error(const std::string& message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // there is no memory for the message, only the status is returned
  }
}

gc_status status_of_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    set_last_error(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    set_last_error("The system refused memory for the call's own bookkeeping.");
    return GC_NO_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(std::string("Unexpected error inside gradcore: ") + error.what());
    return GC_INTERNAL;
  } catch (...) {
    set_last_error("Unexpected error inside gradcore that is no std::exception.");
    return GC_INTERNAL;
  }
}

}  // namespace gradcore

extern "C" const char* gc_last_error(void) { return gradcore::last_error.c_str(); }
