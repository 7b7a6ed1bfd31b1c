// Passes that have gone forward and wait for their way back, between two custom calls.
//
// A forward call leaves its pass here and returns a ticket, which is an operand of the backward
// call beside the arrays that the forward call had. XLA may run the backward call never, once, or
// several times, and keep those arrays elsewhere; so a ticket is only a hint: a backward call whose
// pass is not here runs forward again, with the same result. The oldest passes are dropped first,
// because backward calls come in the reverse order of their forward calls.
#pragma once
#include <gradcore/gradcore.h>

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "gradcore/xla/description.h"

namespace gradcore::xla_calls {

// A pass with the arrays that must outlive the forward call.
struct Tape {
  Tape(const Attributes& attributes, Operands& operands)
      : described(attributes, operands), wanted(attributes.number("wanted")) {}
  ~Tape() { gc_pass_free(pass); }

  // Whether a backward call is that of the same net, plan and shapes.
  bool fits(const Tape& other) const {
    return described.call.steps == other.described.call.steps &&
           described.call.batch == other.described.call.batch && wanted == other.wanted &&
           described.net.words() == other.described.net.words() &&
           described.ops == other.described.ops;
  }

  Described described;
  int64_t wanted;
  std::vector<uint8_t> reset;
  gc_pass* pass = nullptr;
};

class Tapes {
 public:
  // Passes together hold at most so many bytes, unless one alone is larger.
  static constexpr int64_t most_bytes = 1'000'000'000;

  static Tapes& all() {
    // It is never destroyed, since calls may run in other threads until the process ends.
    static Tapes* const made = new Tapes;
    return *made;
  }

  uint64_t keep(std::unique_ptr<Tape> tape) {
    std::list<Kept> dropped;  // freed outside the lock
    const std::lock_guard lock(mutex_);
    bytes_ += tape->described.call.arena_bytes;
    kept_.push_back({++last_, std::move(tape)});
    while (bytes_ > most_bytes && kept_.size() > 1) {
      bytes_ -= kept_.front().tape->described.call.arena_bytes;
      dropped.splice(dropped.end(), kept_, kept_.begin());
    }
    return last_;
  }

  // Hands a pass out for good, because its way back uses it up; null if it is not here.
  std::unique_ptr<Tape> take(uint64_t ticket) {
    const std::lock_guard lock(mutex_);
    for (auto at = kept_.rbegin(); at != kept_.rend(); at++) {
      if (at->ticket != ticket) continue;
      std::unique_ptr<Tape> tape = std::move(at->tape);
      bytes_ -= tape->described.call.arena_bytes;
      kept_.erase(std::next(at).base());
      return tape;
    }
    return nullptr;
  }

  int64_t count() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(kept_.size());
  }

  void clear() {
    std::list<Kept> dropped;
    const std::lock_guard lock(mutex_);
    dropped.swap(kept_);
    bytes_ = 0;
  }

 private:
  struct Kept {
    uint64_t ticket;
    std::unique_ptr<Tape> tape;
  };

  // A ticket of another process, saved with an array, must not be one of this process. 0 is none.
  Tapes() {
    std::random_device random;
    last_ = (static_cast<uint64_t>(random()) << 32 | random()) >> 1;
  }

  std::mutex mutex_;
  std::list<Kept> kept_;  // the oldest first
  int64_t bytes_ = 0;
  uint64_t last_;
};

}  // namespace gradcore::xla_calls
