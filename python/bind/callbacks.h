// Functions that the core calls while it runs. They take the GIL; an exception from Python is kept
// and raised after the core has returned.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <utility>

struct Callbacks {
  pybind11::object progress = pybind11::none();

  // Runs a callback's body. The result 1 tells the core to stop.
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

  // The poll function given to the core, with Callbacks as its context. It reports progress and
  // checks for Ctrl-C.
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
