// A validated net: its sizes, its counts and the offset of every parameter in the flat buffer.
#pragma once
#include <gradcore/gradcore.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/kernel_table.h"
#include "sequence/border_shape.h"

namespace gradcore {

// What a layer or a window carries from step to step.
struct StateShape {
  int64_t H, Hp;         // units of a row, without and with padding
  int64_t lead;          // rows of earlier steps in a state: of outputs, of a window its inputs
  int32_t states;        // of a cell; the first is its outputs
  int32_t saved;         // values that the tape keeps per unit and step
  int64_t state_offset;  // elements in front of its state if B = 1; multiplied by B otherwise
  int32_t state_index;   // its number among all layers, directions and windows
};

inline int64_t blocks(int64_t n, int32_t ub) { return (n + ub - 1) / ub; }

// A recurrent layer, or one direction of a bidirectional layer.
struct Layer : StateShape {
  gc_layer spec;
  int32_t index;      // number of the layer among the net's recurrent layers
  int32_t direction;  // number among all layers and directions
  bool reverse;       // true if it reads time backward
  // True if the layer has no recurrence and passes its input on, in front of a head that runs
  // without a layer.
  bool pass;
  int64_t column;  // first column of its output in the rows of the layer: 0 or H
  int64_t head;    // units of the state that a unit reads: H, those of its block, 1 or 0
  // Which unit blocks of the state the units of each unit block read, and the most of them. Where
  // heads do not end with unit blocks, weights of other heads are 0.
  std::vector<Band> bands;
  int64_t span;
  int32_t gates, planes;
  bool antisymmetric;
  const int32_t* input_plane;
  int64_t nb;         // unit blocks, of 64 bytes each
  int64_t z_row;      // distance in elements between rows of adjoints of pre-activations
  int64_t I, ib, Ip;  // inputs, blocks of inputs, inputs with padding
  int64_t weight_ih, weight_hh, bias_ih, bias_hh, skip;  // offsets in the flat buffer; -1: absent
  int64_t initial, initial_weight;  // the same of the initial state [states*H] and [states*H, S]
  bool has_skip() const { return spec.skip_kind != GC_SKIP_NONE; }
  bool is_dense() const { return spec.recurrent == GC_RECURRENT_DENSE; }
  // Units of the state for which the recurrent weights of a unit block are laid out.
  int64_t reads() const {
    return is_dense() ? H : spec.recurrent == GC_RECURRENT_BLOCKS ? span * (Hp / nb) : head;
  }
  const Band& band_of(int64_t j) const {
    return *std::upper_bound(bands.begin(), bands.end(), j,
                             [](int64_t at, const Band& band) { return at < band.j1; });
  }
  // A bidirectional layer's residual connection adds only this direction's columns of the input;
  // that of a layer with one direction adds whole rows.
  bool adds_columns() const { return spec.residual && spec.bidirectional; }
  bool adds_rows() const { return spec.residual && !spec.bidirectional; }
};

// A gc_transform of rows of I units, which become rows of O units.
struct Transform {
  gc_transform spec;
  int64_t I, O;
  int64_t weight, bias;  // offsets in the flat buffer; -1: absent
  int64_t biased;        // with a bias: how many outputs, from the first on, have one
  StateShape past{};     // of a GC_WINDOW: its inputs
  // Of a GC_DENSE or GC_WINDOW.
  int64_t taps() const { return spec.taps > 0 ? spec.taps : 1; }
  int64_t groups() const { return spec.groups > 0 ? spec.groups : 1; }
  bool has_parameters() const { return weight >= 0 || bias >= 0; }
};

struct Part;

// What becomes a part: layers that read time in the same order, the window in front of them, and
// the transforms in front of each and behind the last one.
struct Group {
  std::vector<Layer> layers;
  std::optional<Transform> border;
  std::vector<std::vector<Transform>> transforms;
};

struct Network {
  explicit Network(const gc_net& net);  // throws Error(GC_INVALID)

  gc_dtype dtype;
  int32_t ub;  // units per block of 64 bytes
  std::vector<Layer> layers;
  std::vector<std::vector<Transform>> transforms;  // in front of each layer, then of the head
  int64_t input_size;  // units of the rows that come to the first transform or layer
  int64_t embedding_rows, embedding_dim, embedding;
  int64_t outputs, ob, Op;  // outputs of the net (of the head, or what would come to it), their
                            // blocks, and their number with padding
  bool has_head;
  Transform head;  // a GC_DENSE
  int64_t n_parameters;
  int64_t statics = 0;  // S, the width of what does not change with time; 0: none
  int64_t state_size;   // elements in the state of one sequence
  int32_t n_states;     // layers, directions and windows

  // Divides the net into parts that run one after the other. Layers, embedding and head are
  // distributed among the parts; offsets and sizes remain those of the whole net.
  std::vector<Part> parts() const;

  const Layer& top() const { return layers.back(); }
  // The transforms that the rows of the input come to first.
  const std::vector<Transform>& front() const {
    return layers[0].pass ? transforms.back() : transforms.front();
  }
  // Whether these begin with a convolution, which can take tokens.
  bool begins_with_convolution() const;
  // The windows, in order.
  std::vector<const Transform*> windows() const;
  // What this net, or the part that it is, carries from step to step.
  std::vector<const StateShape*> states() const;
  // Returns one of the layers and directions of the whole net; throws Error(GC_INVALID).
  const Layer& at(int32_t direction) const;
  // Whether the outputs have one step per sequence.
  bool pools() const;
  // Number of different tokens if the input is tokens.
  int64_t vocabulary() const { return embedding_rows ? embedding_rows : input_size; }

 private:
  void read_statics(int64_t size, int before);
  void take_head(const gc_net& net, int64_t width, int64_t& offset);
  void add_window_states();
  std::vector<Group> groups() const;
  void cut_at_pool(std::vector<Part>& parts) const;
};

// A part of the net: layers that run together because they read time in the same order. Its outputs
// are columns [column, column + H) of rows of `width`; both directions of a layer share these rows.
struct Part {
  Network net;
  bool first, last;  // first: reads the net's input; last: has the head and the loss
  bool reverse;
  int64_t column, width;
  int32_t before;  // the part whose rows it reads, the forward one of two directions; -1: the input
  std::optional<Transform> border;  // the window through which it reads them
  bool pooled = false;              // it reads the one row that a pool has left of each sequence
  std::optional<Transform> pool = std::nullopt;  // the GC_POOL in which its rows end

  BorderShape window() const { return BorderShape(border->spec); }
  // Whether its steps can be others than those of what it reads.
  bool shortens() const { return border || pooled; }
  // Its steps if what it reads has n.
  int64_t steps(int64_t n) const {
    return pooled ? std::min<int64_t>(n, 1) : border ? window().steps(n) : n;
  }
};

// The steps of each part if the net's input has n.
std::vector<int64_t> steps_of(const std::vector<Part>& parts, int64_t n);

}  // namespace gradcore
