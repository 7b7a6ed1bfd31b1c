// What the attributes and buffers of a custom call say: the net, the plan, and the arrays that
// every kind of call has.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace gradcore::xla_calls {

namespace ffi = ::xla::ffi;

// Thrown on the way; a handler turns it into the status that XLA reports.
struct Failure {
  ffi::ErrorCode code;
  std::string message;
};

inline void check(gc_status status) {
  if (status == GC_OK) return;
  const auto code = status == GC_INVALID     ? ffi::ErrorCode::kInvalidArgument
                    : status == GC_NONFINITE ? ffi::ErrorCode::kOutOfRange
                    : status == GC_NO_MEMORY ? ffi::ErrorCode::kResourceExhausted
                                             : ffi::ErrorCode::kInternal;
  throw Failure{code, std::string("gradcore: ") + gc_last_error()};
}

// The attributes, which gradcore.jax has written: one that is missing is a defect.
class Attributes {
 public:
  explicit Attributes(const ffi::Dictionary& all) : all_(all) {}
  int64_t number(std::string_view name) const { return get<int64_t>(name); }
  ffi::Span<const int64_t> numbers(std::string_view name) const {
    return get<ffi::Span<const int64_t>>(name);
  }
  std::string_view text(std::string_view name) const { return get<std::string_view>(name); }

 private:
  template <class T>
  T get(std::string_view name) const {
    auto found = all_.get<T>(name);
    if (!found.has_value())
      throw Failure{ffi::ErrorCode::kInternal, "gradcore: the call has no attribute " +
                                                   std::string(name) + ": " +
                                                   found.error().message()};
    return *found;
  }
  const ffi::Dictionary& all_;
};

// A net, from the numbers of Net::words (python/bind/net.cpp) and the names of its cells. The
// number of a registered cell may differ from process to process, and a compiled program from its
// name.
class Net {
 public:
  Net(ffi::Span<const int64_t> words, std::string_view cells) : words_(words.begin(), words.end()) {
    const int64_t* at = words_.data();
    net_.dtype = static_cast<int32_t>(at[0]);
    net_.embedding_rows = at[1];
    net_.embedding_dim = at[2];
    net_.n_layers = static_cast<int32_t>(at[3]);
    net_.head_outputs = at[4];
    net_.head_bias = static_cast<int32_t>(at[5]);
    net_.head_unbiased = at[6];
    net_.n_transforms = static_cast<int32_t>(at[7]);
    gc_layer* layers = reinterpret_cast<gc_layer*>(words_.data() + 8);
    net_.layers = layers;
    net_.transforms = reinterpret_cast<const gc_transform*>(layers + net_.n_layers);
    for (int32_t l = 0; l < net_.n_layers; l++) {
      const std::string_view name = cells.substr(0, cells.find(' '));
      cells.remove_prefix(std::min(cells.size(), name.size() + 1));
      layers[l].cell = number_of(name);
    }
  }
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  const gc_net* get() const { return &net_; }
  const std::vector<int64_t>& words() const { return words_; }
  int64_t state_size(int64_t batch) const { return gc_net_state_size(&net_, batch); }
  size_t states() const { return static_cast<size_t>(gc_net_states(&net_)); }

 private:
  static int32_t number_of(std::string_view name) {
    for (int32_t i = 0; const gc_cell_facts* facts = gc_cell_info(i); i++)
      if (name == facts->name) return i;
    throw Failure{ffi::ErrorCode::kNotFound,
                  "gradcore: this process does not have the compiled cell " + std::string(name) +
                      ". Call gradcore.cells.compile with its source before the program runs."};
  }

  std::vector<int64_t> words_;
  gc_net net_{};
};

// The bits of the attribute `given`, in the order of the operands behind params and x.
enum Given : int64_t {
  given_state = 1,
  given_lengths = 2,
  given_reset = 4,
  given_t_params = 8,
  given_t_x = 16,
  given_t_state = 32
};

// The bits of the attribute `wanted`: the gradients that are results.
enum Wanted : int64_t { wanted_params = 1, wanted_x = 2, wanted_state = 4 };

// Hands out the operands in their order.
class Operands {
 public:
  Operands(ffi::RemainingArgs all, int64_t given) : all_(all), given_(given) {}
  ffi::AnyBuffer next() {
    auto found = all_.get<ffi::AnyBuffer>(at_++);
    if (!found.has_value())
      throw Failure{ffi::ErrorCode::kInternal, "gradcore: an operand is missing."};
    return *found;
  }
  void* next_if(Given bit) { return given_ & bit ? next().untyped_data() : nullptr; }

 private:
  ffi::RemainingArgs all_;
  int64_t given_;
  size_t at_ = 0;
};

class Results {
 public:
  explicit Results(ffi::RemainingRets all) : all_(all) {}
  void* next() {
    auto found = all_.get<ffi::AnyBuffer>(at_++);
    if (!found.has_value())
      throw Failure{ffi::ErrorCode::kInternal, "gradcore: a result is missing."};
    return (*found)->untyped_data();
  }

 private:
  ffi::RemainingRets all_;
  size_t at_ = 0;
};

// What all calls have: the net, the plan, and params, x, state, lengths and reset, which are the
// first operands. Lengths are copied, since XLA's have 32 bits.
struct Described {
  Described(const Attributes& attributes, Operands& operands)
      : net(attributes.numbers("net"), attributes.text("cells")) {
    const auto given_ops = attributes.numbers("ops");
    static_assert(sizeof(gc_op) == 4 * sizeof(int64_t));
    ops.assign(given_ops.begin(), given_ops.end());
    call.ops = reinterpret_cast<const gc_op*>(ops.data());
    call.n_ops = static_cast<int64_t>(ops.size() / 4);
    call.segment_steps = attributes.number("segment_steps");
    call.n_slots = attributes.number("slots");
    call.threads = static_cast<int32_t>(attributes.number("threads"));
    call.exact_threads = static_cast<int32_t>(attributes.number("exact_threads"));
    call.no_scaling = static_cast<int32_t>(attributes.number("no_scaling"));
    call.params = operands.next().untyped_data();
    const ffi::AnyBuffer x = operands.next();
    call.x = x.untyped_data();
    call.steps = x.dimensions()[0];
    call.batch = x.dimensions()[1];
    call.state = operands.next_if(given_state);
    if (const auto* given = static_cast<const int32_t*>(operands.next_if(given_lengths))) {
      lengths.assign(given, given + call.batch);
      call.lengths = lengths.data();
    }
    call.reset = static_cast<const uint8_t*>(operands.next_if(given_reset));
  }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;

  Net net;
  std::vector<int64_t> ops, lengths;
  gc_call call{};
};

// Multiplies by 2^exponent; an overflow gives infinity, and what is too small 0.
template <class T>
void scale(T* values, int64_t count, int64_t exponent) {
  if (!exponent) return;
  const int by = static_cast<int>(std::clamp<int64_t>(exponent, -5000, 5000));
  for (int64_t i = 0; i < count; i++)
    values[i] = static_cast<T>(__builtin_ldexp(static_cast<double>(values[i]), by));
}

inline void scale(const gc_net& net, void* values, int64_t begin, int64_t count, int64_t exponent) {
  if (net.dtype == GC_FLOAT32)
    scale(static_cast<float*>(values) + begin, count, exponent);
  else
    scale(static_cast<double*>(values) + begin, count, exponent);
}

}  // namespace gradcore::xla_calls
