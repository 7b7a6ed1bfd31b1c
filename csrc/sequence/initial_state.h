// The initial state that a net computes itself, from parameters and static inputs, where the call
// gives none; and what its gradient gives to those.
#pragma once
#include <gradcore/gradcore.h>

#include <vector>

#include "base/layout.h"
#include "sequence/network.h"
#include "sequence/scale/static_gradient.h"

namespace gradcore {

// The parts of a net see an ordinary initial state, its tangents and an array for its gradient.
// State j of layer l of sequence b begins as initial[j] + initial_weight[j] statics[b]; all outputs
// that a skip connection reaches back to begin as the same h.
template <class T>
class InitialState {
 public:
  InitialState(const Network& net, const gc_call& call);

  // trains: the plan has BACKWARD.
  void lay_out(Layout& layout, bool trains);
  // The arrays of a call, as bits, with those that this object adds; and their addresses.
  uint64_t promise(uint64_t arrays) const;
  void lend(gc_call& call) const;
  // Computes the state and its tangents.
  void start();

  // Behind the backward passes of all parts. As the functions of Stage and Tangent of the same
  // names; where the caller gives the state, the parameters' gradients are zero.
  void end_backward();
  int64_t gradient_exponent() const;
  void unpack(T* grads, int64_t exponent) const;
  void unpack_product(T* product) const;
  void add_static(StaticGradient& total) const;
  void add_static_tangent(StaticGradient& total) const;
  void add_static_cotangents(StaticGradient& total);

 private:
  // A layer whose initial state has parameters.
  struct Source {
    const Layer* layer;
    int64_t units;               // of all its states
    double* sums = nullptr;      // [rows][units] gradient of its states; a row is a sequence, or
                                 // one of its cotangents
    double* t_sums = nullptr;    // its tangent
    double* grads = nullptr;     // [units] and [units][S], of its parameters
    double* products = nullptr;  // their tangent
  };
  bool has_array(int array) const;
  int64_t state_elements() const { return net_.state_size * call_.batch; }
  const T* params() const { return static_cast<const T*>(call_.params); }
  const T* statics() const { return static_cast<const T*>(call_.statics.values); }
  const T* moved() const { return static_cast<const T*>(call_.tangents.params); }
  const T* moved_statics() const { return static_cast<const T*>(call_.tangents.statics); }
  void compute(T* state, const Source& source, const T* bias, const T* weight,
               const T* statics) const;
  void compute_tangent(int64_t k);
  void gather(const T* states, const Source& source, double* sums, int64_t K) const;
  void add_products(const Source& source, const double* sums, const T* statics, double* to) const;
  void put(const Source& source, const double* from, T* grads, int64_t shift) const;
  int64_t exponent(const Source& source) const { return dstate_exponent_[source.layer->direction]; }

  const Network& net_;
  const gc_call& call_;
  const bool given_;  // the caller gives the state
  std::vector<Source> sources_;
  // Arrays of this object; the caller's own take the place of gradients.
  T *state_ = nullptr, *t_state_ = nullptr, *dstate_ = nullptr, *t_dstate_ = nullptr;
  T* cotangents_ = nullptr;
  int32_t *dstate_exponent_ = nullptr, *cotangents_exponent_ = nullptr;
  uint64_t promised_ = 0;
};

}  // namespace gradcore
