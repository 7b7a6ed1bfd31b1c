"""Cells as a user would write them, each with its step in PyTorch."""

try:
    import torch
except ImportError:  # the steps in PyTorch need it, and their tests skip without
    torch = None

LSTM = """
struct Lstm {
  static constexpr const char *gates = "i f g o", *states = "h c";
  static constexpr const char *functions = "sigmoid sigmoid tanh sigmoid", *memory_gate = "f";
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1) {
    const V i = sigmoid(x[0] + h[0]), f = sigmoid(x[1] + h[1]), g = tanh(x[2] + h[2]),
            o = sigmoid(x[3] + h[3]);
    s1[1] = fma(f, s[1], i * g);
    s1[0] = o * tanh(s1[1]);
  }
};
"""
GRU = """
struct Gru {
  static constexpr const char *gates = "r z n", *states = "h";
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1, V* gate) {
    gate[0] = sigmoid(x[0] + h[0]);
    gate[1] = sigmoid(x[1] + h[1]);
    gate[2] = tanh(fma(gate[0], h[2], x[2]));
    s1[0] = fma(gate[1], s[0] - gate[2], gate[2]);
  }
};
"""
PEEPHOLE = """
// Gers and Schmidhuber 2000; the peepholes are options here, the same for all units.
struct Peephole {
  static constexpr const char *gates = "i f g o", *states = "h c";
  template <class V>
  static constexpr GC_INLINE void forward(const Options& p, const V* x, const V* h, const V* s,
                                          V* s1) {
    const V i = sigmoid(x[0] + h[0] + p.from_i * s[1]);
    const V f = sigmoid(x[1] + h[1] + p.from_f * s[1]);
    const V c = f * s[1] + i * tanh(x[2] + h[2]);
    s1[1] = c;
    s1[0] = sigmoid(x[3] + h[3] + p.from_o * c) * tanh(c);
  }
};
"""
MGU = """
struct MinimalGated {
  static constexpr const char *gates = "f n", *states = "h", *input_gate = "f";
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1) {
    const V f = sigmoid(x[0] + h[0]);
    const V n = tanh(x[1] + f * h[1]);
    s1[0] = s[0] + f * (n - s[0]);
  }
};
"""
# Feng et al. 2024, appendix B: no gate reads the state, and the candidate is positive.
MIN_GRU = """
struct MinGru {
  static constexpr const char *gates = "z n", *states = "h";
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1) {
    const V z = sigmoid(x[0]), n = where(x[1] >= 0, x[1] + 0.5, sigmoid(x[1]));
    s1[0] = (1 - z) * s[0] + z * n;
  }
};
"""
# Every function of the language, two states, gates of both kinds.
EVERYTHING = """
struct Everything {
  static constexpr const char *gates = "a b c d", *states = "h c";
  template <class V>
  static constexpr GC_INLINE void forward(const Options& o, const V* x, const V* h, const V* s,
                                          V* s1) {
    const V a = x[0] + h[0], b = x[1] * h[1], c = where(a > b, softplus(a), b / (2 + a * a));
    const V d = where(b <= s[0], exp(-abs(b)), sqrt(1 + s[1] * s[1])), e = log(1.5 + abs(h[2]));
    s1[0] = 0.5 * tanh(o.leak * max(c, d) + (1 - o.leak) * min(s[0], e)) + 0.1 * relu(x[3] + h[3]);
    V sum = sigmoid(h[2]) - tanh(x[2]);
    sum += fma(V(0.25), b, s[1]);
    sum -= where(a >= 0.25, a, 0) + where(b < o.leak, -b, +b);
    sum /= 3;
    s1[1] = sum;
  }
};
"""

OPTIONS = {
    "Peephole": {"from_i": 0.3, "from_f": -0.2, "from_o": 0.1},
    "Everything": {"leak": 0.7},
}
SOURCES = {
    "Lstm": LSTM,
    "Gru": GRU,
    "Peephole": PEEPHOLE,
    "MinimalGated": MGU,
    "MinGru": MIN_GRU,
    "Everything": EVERYTHING,
}


def _lstm(x, h, s):
    i, f, g, o = ((a + b) for a, b in zip(x, h, strict=True))
    c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(x, h, s):
    z = torch.sigmoid(x[1] + h[1])
    n = torch.tanh(x[2] + torch.sigmoid(x[0] + h[0]) * h[2])
    return ((1 - z) * n + z * s[0],)


def _peephole(x, h, s, from_i, from_f, from_o):
    i = torch.sigmoid(x[0] + h[0] + from_i * s[1])
    f = torch.sigmoid(x[1] + h[1] + from_f * s[1])
    c = f * s[1] + i * torch.tanh(x[2] + h[2])
    return torch.sigmoid(x[3] + h[3] + from_o * c) * torch.tanh(c), c


def _mgu(x, h, s):
    f = torch.sigmoid(x[0] + h[0])
    return ((1 - f) * s[0] + f * torch.tanh(x[1] + f * h[1]),)


def _min_gru(x, h, s):
    z = torch.sigmoid(x[0])
    n = torch.where(x[1] >= 0, x[1] + 0.5, torch.sigmoid(x[1]))
    return ((1 - z) * s[0] + z * n,)


def _everything(x, h, s, leak):
    a, b = x[0] + h[0], x[1] * h[1]
    c = torch.where(a > b, torch.nn.functional.softplus(a), b / (2 + a * a))
    d = torch.where(b <= s[0], torch.exp(-b.abs()), torch.sqrt(1 + s[1] ** 2))
    e = torch.log(1.5 + h[2].abs())
    mixed = leak * torch.maximum(c, d) + (1 - leak) * torch.minimum(s[0], e)
    out = 0.5 * torch.tanh(mixed) + 0.1 * torch.relu(x[3] + h[3])
    total = torch.sigmoid(h[2]) - torch.tanh(x[2]) + 0.25 * b + s[1]
    total = total - torch.where(a >= 0.25, a, torch.zeros_like(a)) - torch.where(b < leak, -b, b)
    return out, total / 3


STEPS = {
    "Lstm": _lstm,
    "Gru": _gru,
    "Peephole": _peephole,
    "MinimalGated": _mgu,
    "MinGru": _min_gru,
    "Everything": _everything,
}


def torch_outputs(layer, params, x):
    """The outputs [T, B, H] of one layer for float64 tensors; params: by name, as the layer's."""
    name = type(layer).__name__
    options = {option: getattr(layer, option) for option, _ in layer.source.options}
    gates, size = len(layer.cell.gates), (x.shape[1], layer.hidden_size)
    states = tuple(torch.zeros(size, dtype=torch.double) for _ in layer.cell.states)
    outputs = []
    for row in x:
        x_pre = (row @ params["weight_ih"].T + params["bias_ih"]).chunk(gates, 1)
        h_pre = (states[0] @ params["weight_hh"].T + params["bias_hh"]).chunk(gates, 1)
        states = STEPS[name](x_pre, h_pre, states, **options)
        outputs.append(states[0])
    return torch.stack(outputs)
