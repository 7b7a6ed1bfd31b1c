// Divides a net into parts.
#include <algorithm>

#include "sequence/network.h"

namespace gradcore {

// Makes a layer without recurrence that passes rows of `width` on, for a head without a layer of
// its own.
static Layer passing(int64_t width, int32_t index, int32_t ub) {
  Layer layer{};
  layer.pass = true;
  layer.index = index;
  layer.H = layer.I = width;
  layer.nb = layer.ib = blocks(width, ub);
  layer.Hp = layer.Ip = layer.nb * ub;
  layer.weight_ih = layer.weight_hh = layer.bias_ih = layer.bias_hh = layer.skip = -1;
  layer.initial = layer.initial_weight = -1;
  return layer;
}

// Whether transforms run in the part before them where they stand between layers with one direction
// and a bidirectional layer, rather than once in each of its directions. What was there first,
// LayerNorm and dropout, stays in both: sums of its gradients keep their bits.
static bool run_ahead(const std::vector<Transform>& transforms) {
  return std::any_of(transforms.begin(), transforms.end(), [](const Transform& t) {
    return t.spec.kind != GC_LAYER_NORM && t.spec.kind != GC_DROPOUT;
  });
}

// Whether transforms read earlier steps, so that they cannot run in a part that reads time
// backward.
static bool reads_past(const std::vector<Transform>& transforms) {
  return std::any_of(transforms.begin(), transforms.end(),
                     [](const Transform& t) { return t.spec.kind == GC_WINDOW; });
}

static bool is_border(const Transform& t) { return t.spec.kind == GC_BORDER; }

namespace {

// Layers and transforms of a net become groups, from the input to the outputs.
class Grouping {
 public:
  explicit Grouping(int32_t ub) : ub_(ub) {}

  // A group without a layer, whose transforms run behind it.
  void pass(std::optional<Transform> border, std::vector<Transform> transforms, int64_t width,
            int32_t index) {
    groups_.push_back(
        {{passing(width, index, ub_)}, std::move(border), {{}, std::move(transforms)}});
  }
  // The transforms in front of recurrent layer `index`, or of the end: each window begins a group.
  // What remains for the layer is left in `front`, with its window in `border`.
  void divide(std::vector<Transform>& front, std::optional<Transform>& border, int64_t units,
              bool keeps_last, int32_t index) {
    auto at = std::find_if(front.begin(), front.end(), is_border);
    if (at == front.end()) return;
    const std::vector<Transform> ahead(front.begin(), at);
    if (open())
      end_with(ahead);
    else if (!ahead.empty() || units)
      pass({}, ahead, ahead.empty() ? units : ahead.front().I, index);
    while (at != front.end()) {
      const auto next = std::find_if(at + 1, front.end(), is_border);
      const std::vector<Transform> own(at + 1, next);
      if (next == front.end() && keeps_last) {
        border = *at;
        front = own;
        return;
      }
      pass(*at, own, at->O, index);
      at = next;
    }
    front.clear();
  }
  // Whether the last group may go on: it reads time forward.
  bool open() const { return !groups_.empty() && !groups_.back().layers.back().spec.bidirectional; }
  void begin(const Layer& layer, std::vector<Transform> front, std::optional<Transform> border) {
    groups_.push_back({{layer}, std::move(border), {std::move(front), {}}});
  }
  void extend(const Layer& layer, std::vector<Transform> front) {
    groups_.back().layers.push_back(layer);
    groups_.back().transforms.back() = std::move(front);
    groups_.back().transforms.emplace_back();
  }
  void end_with(std::vector<Transform> transforms) {
    groups_.back().transforms.back() = std::move(transforms);
  }
  // Transforms that run in the group before the layers, or in one of their own.
  void ahead(const std::vector<Transform>& transforms, int32_t index) {
    if (open())
      end_with(transforms);
    else
      pass({}, transforms, transforms.front().I, index);
  }
  std::vector<Group> take() { return std::move(groups_); }

 private:
  const int32_t ub_;
  std::vector<Group> groups_;
};

}  // namespace

std::vector<Group> Network::groups() const {
  Grouping grouping(ub);
  // An embedding in front of a window runs by itself, since its rows are read several times.
  int64_t units = embedding_rows ? embedding_dim : 0;
  bool ahead = false;  // whether what is in front of a bidirectional layer runs in the group before
  for (const Layer& layer : layers) {
    std::vector<Transform> front = transforms[static_cast<size_t>(layer.index)];
    std::optional<Transform> border;
    const bool both = layer.spec.bidirectional;
    const bool divides = std::any_of(front.begin(), front.end(), is_border);
    if (divides && !layer.reverse) grouping.divide(front, border, units, !both, layer.index);
    units = 0;
    if (!both && grouping.open() && !border) {
      grouping.extend(layer, front);
      continue;
    }
    if (!layer.reverse) {
      ahead = divides || (both && (grouping.open() ? run_ahead(front) : reads_past(front)));
      if (ahead && both && !divides) grouping.ahead(front, layer.index);
    }
    if (both && ahead) front.clear();
    grouping.begin(layer, front, border);
  }
  std::vector<Transform> rest = transforms.back();
  std::optional<Transform> none;
  const bool divides = std::any_of(rest.begin(), rest.end(), is_border);
  if (divides)
    grouping.divide(rest, none, 0, false, top().index + 1);
  else if (!grouping.open())
    grouping.pass({}, rest, 2 * top().H, top().index + 1);
  else
    grouping.end_with(rest);
  return grouping.take();
}

std::vector<Part> Network::parts() const {
  const std::vector<Group> all = groups();
  std::vector<Part> parts;
  for (size_t g = 0; g < all.size(); g++) {
    const std::vector<Layer>& group = all[g].layers;
    Part part{*this, false, false, false, 0, 0, -1, all[g].border};
    part.reverse = group[0].reverse;
    if (part.reverse)
      part.before = parts[g - 1].before;
    else if (g > 0)
      part.before = static_cast<int32_t>(parts[g - 1].reverse ? g - 2 : g - 1);
    part.first = part.before < 0;
    part.last = g + 1 == all.size();
    part.column = group[0].column;
    part.net.layers = group;
    part.net.transforms = all[g].transforms;
    const std::vector<Transform>& front = part.net.transforms.front();
    part.net.input_size = part.border     ? part.border->O
                          : front.empty() ? group[0].I
                                          : front.front().I;
    if (!part.first) part.net.embedding_rows = part.net.embedding_dim = 0;
    const std::vector<Transform>& back = part.net.transforms.back();
    const int64_t width = back.empty() ? group.back().H : back.back().O;
    part.width = group[0].spec.bidirectional ? 2 * width : width;
    if (!part.last) {
      part.net.has_head = false;
      part.net.outputs = width;
      part.net.ob = blocks(width, ub);
      part.net.Op = part.net.ob * ub;
    }
    parts.push_back(part);
  }
  cut_at_pool(parts);
  return parts;
}

static bool is_pool(const Transform& t) { return t.spec.kind == GC_POOL; }

bool Network::pools() const {
  return std::any_of(transforms.back().begin(), transforms.back().end(), is_pool);
}

// A pool over the sequence ends a part, and what is behind it is a part of its own. Right behind a
// bidirectional layer each direction pools its own columns, so that nothing of all steps lies
// between them and the pool; but the scores of attention and a residual connection need both.
void Network::cut_at_pool(std::vector<Part>& parts) const {
  if (!pools()) return;
  Part& end = parts.back();
  std::vector<Transform>& back = end.net.transforms.back();
  const auto at = std::find_if(back.begin(), back.end(), is_pool);
  const Transform pool = *at;
  const bool each = top().spec.bidirectional && !top().spec.residual && !end.border &&
                    at == back.begin() && pool.spec.function != GC_POOL_ATTENTION;
  if (each) {
    back.erase(at);
    end.pooled = true;
    for (size_t p = parts.size() - 3; p < parts.size() - 1; p++) parts[p].pool = pool;
    return;
  }
  Part rest{*this, false, true, false, 0, outputs, static_cast<int32_t>(parts.size()) - 1, {}};
  rest.net.layers = {passing(pool.O, top().index + 1, ub)};
  rest.net.transforms = {{}, {at + 1, back.end()}};
  rest.net.input_size = pool.O;
  rest.net.embedding_rows = rest.net.embedding_dim = 0;
  rest.pooled = true;
  back.erase(at, back.end());
  end.pool = pool;
  end.last = false;
  end.width = pool.O;
  end.net.has_head = false;
  end.net.outputs = pool.O;
  end.net.ob = blocks(pool.O, ub);
  end.net.Op = end.net.ob * ub;
  parts.push_back(rest);
}

std::vector<int64_t> steps_of(const std::vector<Part>& parts, int64_t n) {
  std::vector<int64_t> steps;
  for (const Part& part : parts)
    steps.push_back(part.steps(part.first ? n : steps[static_cast<size_t>(part.before)]));
  return steps;
}

}  // namespace gradcore
