#include "base/limits.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "check.h"

using namespace gradcore;

namespace {

// A folder that stands for /sys/fs/cgroup.
class Hierarchy {
 public:
  Hierarchy() {
    char name[] = "/tmp/gradcore-cgroup-XXXXXX";
    root_ = mkdtemp(name);
  }
  ~Hierarchy() { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

}  // namespace

TEST(cgroup_v2_quota_counts_whole_cpus) {
  const Hierarchy cgroup;
  cgroup.write("a/b/cpu.max", "350000 100000\n");
  CHECK_EQUAL(cgroup_cpus("0::/a/b\n", cgroup.root()), 3);
}

TEST(cgroup_v2_tightest_ancestor_holds) {
  const Hierarchy cgroup;
  cgroup.write("a/cpu.max", "200000 100000\n");
  cgroup.write("a/b/cpu.max", "max 100000\n");
  CHECK_EQUAL(cgroup_cpus("0::/a/b\n", cgroup.root()), 2);
}

TEST(cgroup_v2_quota_below_one_cpu_is_one) {
  const Hierarchy cgroup;
  cgroup.write("cpu.max", "50000 100000\n");
  CHECK_EQUAL(cgroup_cpus("0::/\n", cgroup.root()), 1);
}

TEST(cgroup_path_of_the_host_falls_back_to_the_mounted_root) {
  const Hierarchy cgroup;
  cgroup.write("cpu.max", "400000 100000\n");
  CHECK_EQUAL(cgroup_cpus("0::/kubepods/pod1\n", cgroup.root()), 4);
}

TEST(cgroup_v1_quota) {
  const Hierarchy cgroup;
  cgroup.write("cpu,cpuacct/box/cpu.cfs_quota_us", "600000\n");
  cgroup.write("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(cgroup_cpus("5:memory:/box\n4:cpu,cpuacct:/box\n", cgroup.root()), 6);
}

TEST(cgroup_v1_controller_mounted_alone) {
  const Hierarchy cgroup;
  cgroup.write("cpu/cpu.cfs_quota_us", "200000\n");
  cgroup.write("cpu/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(cgroup_cpus("4:cpuacct,cpu:/box\n", cgroup.root()), 2);
}

TEST(no_quota_is_no_limit) {
  const Hierarchy cgroup;
  cgroup.write("cpu.max", "max 100000\n");
  cgroup.write("cpu/cpu.cfs_quota_us", "-1\n");
  cgroup.write("cpu/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(cgroup_cpus("0::/\n1:cpu:/\n", cgroup.root()), no_limit);
  CHECK_EQUAL(cgroup_cpus("", cgroup.root()), no_limit);
  CHECK_EQUAL(cgroup_cpus("garbage\n0:\n7:cpu:relative\n", cgroup.root()), no_limit);
}

TEST(omp_num_threads_takes_the_first_number) {
  CHECK_EQUAL(omp_num_threads("3"), 3);
  CHECK_EQUAL(omp_num_threads("4,2"), 4);
  CHECK_EQUAL(omp_num_threads(nullptr), no_limit);
  CHECK_EQUAL(omp_num_threads(""), no_limit);
  CHECK_EQUAL(omp_num_threads("0"), no_limit);
  CHECK_EQUAL(omp_num_threads("many"), no_limit);
}

TEST(affinity_has_a_cpu) { CHECK(affinity_cpus() >= 1); }
