// Which level's table is in use.
#include "kernels/kernel_table.h"

#include <type_traits>

#include "base/cpu.h"

namespace gradcore {

#define DECLARE(level, value)            \
  namespace level {                      \
  extern const KernelTable kernel_table; \
  }
GRADCORE_EACH_ISA(DECLARE)
#undef DECLARE

static const KernelTable& table() noexcept {
  const gc_isa isa = current_isa();
#define CHOOSE(level, value) \
  if (isa == value) return level::kernel_table;
  GRADCORE_EACH_ISA(CHOOSE)
#undef CHOOSE
  __builtin_unreachable();  // current_isa() is one of the levels compiled in
}

template <class T>
const Kernels<T>& kernels() noexcept {
  if constexpr (std::is_same_v<T, float>)
    return table().f32;
  else
    return table().f64;
}
template const Kernels<float>& kernels<float>() noexcept;
template const Kernels<double>& kernels<double>() noexcept;

}  // namespace gradcore
