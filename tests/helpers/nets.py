"""Nets for tests that go through every cell and every kind of skip."""

import gradcore as gd
from gradcore._net import cells

# Maps a name to a function of (inputs, hidden, **options).
CELLS = {
    "rnn": gd.RNN,
    "relu": lambda i, h, **options: gd.RNN(i, h, nonlinearity="relu", **options),
    "identity": lambda i, h, **options: gd.RNN(i, h, nonlinearity="identity", **options),
    "lstm": gd.LSTM,
    "gru": gd.GRU,
    # The largest step that random weights allow: with a larger one Euler's method amplifies
    # rounding errors.
    "antisymmetric": lambda i, h, **options: gd.AntisymmetricRNN(
        i, h, step=0.03, diffusion=0.2, **options
    ),
}
# A cell that the core lists and that has no options of its own needs no line above.
CELLS |= {kind.cell.name: kind for kind in cells.CELLS if kind.cell.name not in CELLS}

# Added skips have negative factors here: added to the z h of a GRU, positive ones could make a net
# explode.
SKIPS = {
    "none": None,
    "add": gd.Skip(1, kind="add", value=-0.4),
    "add learned": gd.Skip(2, kind="add", value=-0.3, learned=True),
    "mix": gd.Skip(5, kind="mix", value=0.3),
    "mix learned": gd.Skip(3, kind="mix", learned=True),
}


# With two units a LayerNorm gives +1 and -1, with one it gives 0: without eps the gradient is only
# rounding.
def norm_eps(size):
    return 1e-5 if size > 2 else 0.125


# Maps a name to the layers, by size, that stand before every layer but the embedding, and after the
# last.
BETWEEN = {
    "nothing": lambda size: [],
    "norm": lambda size: [gd.LayerNorm(size, norm_eps(size))],
    "plain norm": lambda size: [gd.LayerNorm(size, 0.125, elementwise_affine=False)],
    "dropout": lambda size: [gd.Dropout(0.3)],
    "all": lambda size: [
        gd.LayerNorm(size, 0.03125),
        gd.Dropout(0.25),
        gd.LayerNorm(size, 0.03125, bias=False),
    ],
    "dense": lambda size: [
        gd.Dense(size, size + 2, "gelu"),
        gd.Dense(size + 2, 9, "softplus", bias=False),
        gd.Dense(9, size),
    ],
    # Taps reach over the borders of chunks, blocks and short sequences.
    "convolution": lambda size: [
        gd.Conv1d(size, 6, 3, dilation=2, groups=1, activation="tanh"),
        gd.Conv1d(6, 6, 2, dilation=131, groups=3, bias=False),
        gd.Conv1d(6, size, 1),
    ],
    # Residuals also go around layers with one direction that are as wide as their input.
    "residual": lambda size: [
        gd.Residual(
            gd.Dense(size, 5, "silu"),
            gd.Residual(gd.Dense(5, 5, "sigmoid"), gd.Dropout(0.3)),
            gd.Dense(5, size, "tanh"),
        ),
    ],
}
# Those of BETWEEN that read several steps.
OVER_TIME = ("convolution",)
# Kinds of a Pool behind the last layers.
POOLS = ("last", "mean", "max", "attention")
# Options of layers; zoneout_cell is for LSTMs only.
MASKS = {
    "none": {},
    "zoneout": {"zoneout": 0.375, "zoneout_cell": 0.25},
    "zoneout of c": {"zoneout_cell": 0.5},
    "recurrent": {"recurrent_dropout": 0.25},
    "all": {"zoneout": 0.1, "zoneout_cell": 0.3, "recurrent_dropout": 0.4},
}


# What takes other recurrent weights than dense ones.
STRUCTURED_CELLS = [name for name in CELLS if name != "antisymmetric"]
STRUCTURES = ("diagonal", "blocks", "none")


def structure(kind, hidden):
    """The options of a layer with recurrent weights of this kind.

    Blocks are at most four; a prime number of units is divided into blocks of one.
    """
    if kind != "blocks":
        return {"recurrent": kind}
    most = max(n for n in range(1, 5) if hidden % n == 0)
    return {"recurrent": kind, "blocks": most if most > 1 else hidden}


def structured(factors):
    """The factors of a pairwise sample for nets whose recurrent weights have structure."""
    return {**factors, "cell": STRUCTURED_CELLS, "recurrent": list(STRUCTURES)}


def stack(
    cell,
    inputs,
    hidden,
    *,
    layers=1,
    skip=None,
    residual=False,
    bias=True,
    bidirectional=(),
    vocabulary=None,
    classes=None,
    between="nothing",
    masks="none",
    bare_tokens=False,
    pool=None,
    recurrent="dense",
):
    """A net of equal layers, with residuals from the second layer on, or from the first if sizes
    allow.

    bidirectional: which of the layers are bidirectional.
    bare_tokens: no layer may stand before the first one. pool: the kind of a Pool behind the last
    layer, with the layers of `between` on both sides.
    """
    options = {
        name: p for name, p in MASKS[masks].items() if cell == "lstm" or name != "zoneout_cell"
    }
    made = [] if vocabulary is None else [gd.Embedding(vocabulary, inputs)]
    width = inputs
    for i in range(layers):
        both = i in bidirectional
        before = [] if bare_tokens and i == 0 else BETWEEN[between](width)
        layer = CELLS[cell](
            width,
            hidden,
            bias=bias,
            bidirectional=both,
            skip=skip,
            residual=residual and width == hidden * (1 + both),
            **structure(recurrent, hidden),
            **options,
        )
        around = between == "residual" and before and not both and width == hidden
        made += [gd.Residual(*before, layer)] if around else [*before, layer]
        width = layer.output_size
    made += BETWEEN[between](width)
    if pool is not None:
        # What reads several steps has no place behind a Pool.
        behind = [] if between in OVER_TIME else BETWEEN[between](width)
        made += [gd.Pool(pool, width), *behind]
    if classes is not None:
        made.append(gd.Linear(width, classes, bias=bias))
    return gd.Stack(*made)


def pooled(factors):
    """The factors of a pairwise sample for nets with a Pool, which take no resets and no losses of
    the last step.
    """
    losses = [name for name in factors.get("loss", ()) if "last" not in name]
    other = {"loss": losses} if losses else {}
    return {**factors, **other, "reset": [False], "pool": list(POOLS)}


def net_of(case, skips):
    """The net of a pairwise case; skips maps a name to a Skip."""
    inputs = case["inputs"]
    if case["residual"]:
        # Bare tokens cannot be added to the first layer's output, so only later layers are
        # residual.
        width = case["hidden"] * (1 + (0 in case["bidirectional"]))
        inputs = width + (case["source"] == "tokens")
    same = ("cell", "hidden", "layers", "residual", "bias", "bidirectional", "classes", "between")
    return stack(
        inputs=inputs,
        skip=skips[case["skip"]],
        vocabulary=11 if case["source"] == "embedding" else None,
        masks=case["masks"],
        bare_tokens=case["source"] == "tokens",
        pool=case.get("pool"),
        recurrent=case.get("recurrent", "dense"),
        **{name: case[name] for name in same},
    )
