#include "base/limits.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#else
#include <thread>
#endif

namespace gradcore {

int affinity_cpus() noexcept {
#if defined(__linux__)
  // cpu_set_t holds 1,024 CPUs, and the kernel refuses it on larger machines. There the mask is
  // ignored, because a team has at most 64 threads.
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return no_limit;
  return std::max(1, CPU_COUNT(&mask));
#else
  const unsigned cpus = std::thread::hardware_concurrency();
  return cpus ? static_cast<int>(cpus) : 1;
#endif
}

namespace {

int whole_cpus(int64_t quota, int64_t period) noexcept {
  if (quota <= 0 || period <= 0) return no_limit;
  return static_cast<int>(std::clamp<int64_t>(quota / period, 1, no_limit));
}

// Reads a cpu.max file, such as "max 100000" or "150000 100000" (quota and period in us).
int read_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  int64_t quota = 0, period = 0;
  return file >> quota >> period ? whole_cpus(quota, period) : no_limit;
}

int read_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"),
      period_file(folder + "/cpu.cfs_period_us");
  int64_t quota = 0, period = 0;
  return quota_file >> quota && period_file >> period ? whole_cpus(quota, period) : no_limit;
}

// The lowest limit on the way from `path` up to the hierarchy's root. In a container `path` may
// name a folder that only the host can see; the container's own group is then mounted at the root.
template <class Read>
int tightest(const std::string& hierarchy, std::string path, Read read) {
  int cpus = read(hierarchy);
  while (path.size() > 1) {
    cpus = std::min(cpus, read(hierarchy + path));
    path.resize(path.find_last_of('/'));
  }
  return cpus;
}

}  // namespace

int cgroup_cpus(const std::string& membership, const std::string& root) {
  int cpus = no_limit;
  std::istringstream lines(membership);
  for (std::string line;
       std::getline(lines, line);) {  // "0::/a/b" (v2) or "4:cpu,cpuacct:/a/b" (v1)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (path.empty() || path[0] != '/') continue;
    if (controllers.empty()) {
      cpus = std::min(cpus, tightest(root, path, read_v2));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      cpus = std::min(cpus, tightest(root + "/" + controllers, path, read_v1));
      cpus = std::min(cpus, tightest(root + "/cpu", path, read_v1));
    }
  }
  return cpus;
}

int omp_num_threads(const char* value) noexcept {
  if (!value) return no_limit;
  const long number = std::strtol(value, nullptr, 10);
  return number >= 1 && number < no_limit ? static_cast<int>(number) : no_limit;
}

int64_t l2_bytes() noexcept {
  constexpr int64_t usual = 1 << 20;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : usual;
#else
  return usual;
#endif
}

}  // namespace gradcore
