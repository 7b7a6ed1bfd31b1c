// Chooses the kernel table of the instruction-set level that runs on this machine.
#include "kernels/kernel_table.h"

#include "base/dispatch.h"

namespace gradcore {

GRADCORE_DISPATCH(KernelTable, kernel_table, kernel_table)

template <class T>
const Kernels<T>& kernels() noexcept {
  return of_precision<T>(kernel_table());
}
template const Kernels<float>& kernels<float>() noexcept;
template const Kernels<double>& kernels<double>() noexcept;

}  // namespace gradcore
