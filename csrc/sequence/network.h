// A validated net: sizes, counts and the place of every parameter in the flat buffer.
#pragma once
#include <gradcore/gradcore.h>

#include <vector>

namespace gradcore {

// A recurrent layer, or one direction of a bidirectional one.
struct Layer {
  gc_layer spec;
  int32_t index;      // among the net's recurrent layers
  int32_t direction;  // among the net's layers and directions
  bool reverse;       // reads time backward
  bool pass;       // no recurrence: what comes in goes out (in front of a head that has no layer)
  int64_t column;  // where its output begins in the rows of its layer: 0, or H
  int32_t gates, states, saved, planes;
  bool antisymmetric;
  const int32_t* input_plane;
  int64_t H, nb, Hp;  // units, unit blocks, padded units
  int64_t z_row;      // elements from row to row of adjoints of pre-activations
  int64_t I, ib, Ip;  // inputs, the same
  int64_t lead;       // rows of outputs in a state: max(1, lag)
  int64_t weight_ih, weight_hh, bias_ih, bias_hh, skip;  // offsets in the flat buffer; -1: absent
  int64_t state_offset;                                  // of B = 1, in elements; times B
  bool has_skip() const { return spec.skip_kind != GC_SKIP_NONE; }
  // A residual connection of one direction takes its columns out of the input's rows.
  bool adds_columns() const { return spec.residual && spec.bidirectional; }
  bool adds_rows() const { return spec.residual && !spec.bidirectional; }
};

// A gc_transform over rows of I units.
struct Transform {
  gc_transform spec;
  int64_t I;
  int64_t weight, bias;  // offsets in the flat buffer; -1: absent
  bool has_parameters() const { return weight >= 0 || bias >= 0; }
};

struct Part;

struct Network {
  explicit Network(const gc_net& net);  // throws Error(GC_INVALID)

  gc_dtype dtype;
  int32_t ub;  // units per block: 64 bytes
  std::vector<Layer> layers;
  std::vector<std::vector<Transform>> transforms;  // by what reads the rows: layers, then the head
  int64_t embedding_rows, embedding_dim, embedding;
  int64_t outputs, ob, Op;  // of the net: O or the last layer's H
  bool has_head, head_bias;
  int64_t head_weight, head_bias_offset;
  int64_t n_parameters;
  int64_t state_size;  // of B = 1

  // How the net is divided among jobs that run one after the other; layers, embedding and head are
  // divided, offsets and sizes stay those of the whole.
  std::vector<Part> parts() const;

  const Layer& top() const { return layers.back(); }
  // One of the layers and directions of the whole net; throws Error(GC_INVALID).
  const Layer& at(int32_t direction) const;
  // How many token values there are when the input is tokens.
  int64_t vocabulary() const { return embedding_rows ? embedding_rows : layers[0].I; }
};

// Layers that run together, all of them reading time in one order. Its output rows are columns
// [column, column + H) of rows of `width`, which both directions of a layer share.
struct Part {
  Network net;
  bool first, last;  // reads the net's input; has the head and the loss
  bool reverse;
  int64_t column, width;
};

}  // namespace gradcore
