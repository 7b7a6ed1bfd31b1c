// What the core calls while it runs, with the GIL; what that raises waits until the core returned.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <utility>

struct Callbacks {
  pybind11::object progress = pybind11::none();

  // Runs a callback's body; 1 tells the core to stop.
  template <class Body>
  int32_t call(Body&& body) noexcept {
    const pybind11::gil_scoped_acquire locked;
    try {
      body();
      return 0;
    } catch (...) {
      raised_ = std::current_exception();
      return 1;
    }
  }

  // The core's poll, with Callbacks as its context: progress, and Ctrl-C.
  static int32_t poll(void* context, int64_t done, int64_t total) noexcept {
    auto& self = *static_cast<Callbacks*>(context);
    return self.call([&] {
      if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
      if (!self.progress.is_none()) self.progress(done, total);
    });
  }

  void rethrow() {
    if (raised_) std::rethrow_exception(std::exchange(raised_, nullptr));
  }

 private:
  std::exception_ptr raised_;
};
