// A call of the core that reports progress and can be stopped.
#pragma once

#include <gradcore/gradcore.h>

#include "callbacks.h"
#include "status.h"

// Runs function(&call) without the GIL. call: a struct of the core with poll and poll_context.
// Raises what progress or Ctrl-C raised, NonFiniteError, or the core's own error.
template <class Call, class F>
void run_polled(Call& call, F function, const pybind11::object& progress) {
  Callbacks callbacks;
  callbacks.progress = progress;
  call.poll = &Callbacks::poll;
  call.poll_context = &callbacks;
  gc_status status;
  {
    const pybind11::gil_scoped_release unlocked;
    status = function(&call);
  }
  callbacks.rethrow();
  if (status == GC_NONFINITE) raise_error("NonFiniteError", gc_last_error());
  check_status(status);
}
