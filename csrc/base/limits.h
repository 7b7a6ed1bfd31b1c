// The number of CPUs that this process may use, and the cache of each.
#pragma once
#include <cstdint>
#include <string>

namespace gradcore {

constexpr int no_limit = 1 << 30;

// Number of CPUs in this process's affinity mask.
int affinity_cpus() noexcept;
// Number of whole CPUs that the control groups (v2 or v1) allow, at least 1; no_limit without a
// quota. `membership` is the text of /proc/self/cgroup, `root` is where the hierarchies are
// mounted. A quota of 1.5 CPUs counts as 1, because a spinning team that is throttled in the middle
// of a step is slower than one thread.
int cgroup_cpus(const std::string& membership, const std::string& root);
// The first number of a value of OMP_NUM_THREADS ("4" or "4,2"); no_limit if there is none.
int omp_num_threads(const char* value) noexcept;
// Bytes of a core's second-level cache; 1 MB if the system does not tell.
int64_t l2_bytes() noexcept;

}  // namespace gradcore
