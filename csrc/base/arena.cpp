#include "base/arena.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <mutex>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "base/errors.h"

namespace gradcore {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
// A net with bidirectional layers holds a region for each of its parts at the same time, and
// several threads may each run such a net.
constexpr int max_kept = 32;
// A region goes back to the system after this many uses in a row that needed less than half of it,
// so that one large call does not keep its memory for ever, or after this many uses of other
// regions. A loop over buckets of lengths uses its longest bucket again long before.
constexpr int max_underused = 256, max_idle = 1024;

struct Region {
  void* data = nullptr;
  size_t capacity = 0;
  int underused = 0, idle = 0;
};

size_t round_up(size_t bytes, size_t unit) noexcept { return (bytes + unit - 1) / unit * unit; }

void unmap(Region region) noexcept {
  if (region.data) munmap(region.data, region.capacity);
}

Region map(size_t bytes) {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (bytes > SIZE_MAX / 2)
    fail(GC_NO_MEMORY, "The call needs %zu bytes, more than an address space holds.", bytes);
  const size_t capacity = round_up(std::max<size_t>(bytes, 1), page);
  // A huge page must begin at a multiple of its size: map more and release both ends.
  const size_t slack = capacity >= huge_page ? huge_page : 0;
  void* mapped =
      mmap(nullptr, capacity + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    fail(GC_NO_MEMORY,
         "The system refused %zu bytes of memory. Give a smaller memory budget (memory=), a "
         "smaller batch or shorter sequences.",
         capacity);
  if (!slack) return {mapped, capacity, 0, 0};
  char* const start = static_cast<char*>(mapped);
  char* const data =
      reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(start), huge_page));
  const size_t before = static_cast<size_t>(data - start);
  if (before) munmap(start, before);
  if (slack > before) munmap(data + capacity, slack - before);
#ifdef MADV_HUGEPAGE
  madvise(data, capacity, MADV_HUGEPAGE);  // only a hint: it is no error if the system refuses
#endif
  return {data, capacity, 0, 0};
}

// Regions that are not in use, the most recently used first. The list is never destroyed, because
// threads may still end their calls while the process exits.
class FreeList {
 public:
  static FreeList& get() noexcept {
    static FreeList& list = *new FreeList;
    return list;
  }

  // Takes the smallest region that fits, however large it is: all its pages have been accessed
  // before, so it costs nothing. If none fits, the largest one is released and a larger one is
  // mapped, which serves all calls that the old one served. So there are as many regions as are in
  // use at the same time, and after every shape of a loop has occurred once, no call maps memory.
  // For results neither rule holds.
  Region take(size_t bytes, Holds holds) noexcept {
    const bool result = holds == Holds::result;
    Region found, outgrown;
    {
      const std::lock_guard lock(mutex_);
      int best = -1, largest = -1;
      for (int i = 0; i < count_; i++) {
        const size_t capacity = regions_[i].capacity;
        if (result && capacity / 2 > bytes) continue;
        if (capacity >= bytes && (best < 0 || capacity < regions_[best].capacity)) best = i;
        if (largest < 0 || capacity > regions_[largest].capacity) largest = i;
      }
      if (best >= 0)
        found = remove(best);
      else if (largest >= 0 && !result)
        outgrown = remove(largest);
    }
    unmap(outgrown);
    found.underused = bytes < found.capacity / 2 ? found.underused + 1 : 0;
    return found;
  }

  void give(Region region) noexcept {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(region.data, region.capacity);  // undoes the poisoning by Layout
#endif
    Region dropped[2];
    {
      const std::lock_guard lock(mutex_);
      for (int i = 0; i < count_; i++) regions_[i].idle++;
      // The last region in the list has been idle longest.
      if (count_ && (count_ == max_kept || regions_[count_ - 1].idle > max_idle))
        dropped[0] = remove(count_ - 1);
      if (region.underused > max_underused) {
        dropped[1] = region;
      } else {
        for (int i = count_; i > 0; i--) regions_[i] = regions_[i - 1];
        region.idle = 0;
        regions_[0] = region;
        count_++;
      }
    }
    for (const Region& each : dropped) unmap(each);
  }

  void clear() noexcept {
    std::array<Region, max_kept> regions;
    {
      const std::lock_guard lock(mutex_);
      regions = regions_;
      regions_ = {};
      count_ = 0;
    }
    for (const Region& region : regions) unmap(region);
  }

 private:
  // A child that is forked while another thread holds the lock would wait for ever.
  FreeList() noexcept {
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); },
                   [] { get().mutex_.unlock(); });
  }

  Region remove(int index) noexcept {
    const Region region = regions_[index];
    count_--;
    for (int i = index; i < count_; i++) regions_[i] = regions_[i + 1];
    regions_[count_] = {};
    return region;
  }

  std::mutex mutex_;
  std::array<Region, max_kept> regions_{};
  int count_ = 0;
};

}  // namespace

Arena::Arena(size_t bytes, Holds holds) {
  Region region = FreeList::get().take(bytes, holds);
  if (!region.data) region = map(bytes);
  data_ = region.data;
  capacity_ = region.capacity;
  underused_ = region.underused;
}

Arena::~Arena() { FreeList::get().give({data_, capacity_, underused_, 0}); }

void release_arenas() noexcept { FreeList::get().clear(); }

}  // namespace gradcore
