/* The public header in C: a program that is not C++ must be able to include and call it. */
#include <gradcore/gradcore.h>

int32_t abi_version_from_c(void);

int32_t abi_version_from_c(void) {
  gc_call call = {0};
  gc_update update = {0};
  gc_measurement measurement = {0};
  call.ops = 0;
  update.grads = 0;
  return gc_optimizer_step(&update) == GC_INVALID && gc_measure_flops(&measurement) == GC_INVALID &&
                 call.n_ops == 0
             ? gc_abi_version()
             : -1;
}
