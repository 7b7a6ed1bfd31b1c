"""Nets that tests go through: every cell, every kind of skip."""

import gradcore as gd
from gradcore._net import cells

# name -> function of (inputs, hidden, **options)
CELLS = {
    "rnn": gd.RNN,
    "relu": lambda i, h, **options: gd.RNN(i, h, nonlinearity="relu", **options),
    "identity": lambda i, h, **options: gd.RNN(i, h, nonlinearity="identity", **options),
    "lstm": gd.LSTM,
    "gru": gd.GRU,
    # A step as large as random weights allow: beyond, Euler's method blows roundings up.
    "antisymmetric": lambda i, h, **options: gd.AntisymmetricRNN(
        i, h, step=0.03, diffusion=0.2, **options
    ),
}
# A cell that the core lists and that has no options of its own needs no line above.
CELLS |= {kind.cell.name: kind for kind in cells.CELLS if kind.cell.name not in CELLS}

# Added ones are subtracted here: added to the z h of a GRU, they could make a net explode.
SKIPS = {
    "none": None,
    "add": gd.Skip(1, kind="add", value=-0.4),
    "add learned": gd.Skip(2, kind="add", value=-0.3, learned=True),
    "mix": gd.Skip(5, kind="mix", value=0.3),
    "mix learned": gd.Skip(3, kind="mix", learned=True),
}


# Two units come out of a LayerNorm as +1 and -1, one as 0: without eps the gradient is rounding.
def norm_eps(size):
    return 1e-5 if size > 2 else 0.125


# What stands before every layer but the embedding, and behind the last: name -> list by size.
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
}
# Options of layers; zoneout_cell goes to LSTMs only.
MASKS = {
    "none": {},
    "zoneout": {"zoneout": 0.375, "zoneout_cell": 0.25},
    "zoneout of c": {"zoneout_cell": 0.5},
    "recurrent": {"recurrent_dropout": 0.25},
    "all": {"zoneout": 0.1, "zoneout_cell": 0.3, "recurrent_dropout": 0.4},
}


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
):
    """A net of equal layers; residual from the second on, or from the first if sizes allow.

    bidirectional: which of the layers are.
    bare_tokens: nothing may stand before the first layer.
    """
    options = {
        name: p for name, p in MASKS[masks].items() if cell == "lstm" or name != "zoneout_cell"
    }
    made = [] if vocabulary is None else [gd.Embedding(vocabulary, inputs)]
    width = inputs
    for i in range(layers):
        both = i in bidirectional
        made += [] if bare_tokens and i == 0 else BETWEEN[between](width)
        made.append(
            CELLS[cell](
                width,
                hidden,
                bias=bias,
                bidirectional=both,
                skip=skip,
                residual=residual and width == hidden * (1 + both),
                **options,
            )
        )
        width = made[-1].output_size
    made += BETWEEN[between](width)
    if classes is not None:
        made.append(gd.Linear(width, classes, bias=bias))
    return gd.Stack(*made)


def net_of(case, skips):
    """The net of a pairwise case; skips: name -> Skip."""
    inputs = case["inputs"]
    if case["residual"]:
        # Bare tokens have no sum with the first layer's output; later layers are residual then.
        width = case["hidden"] * (1 + (0 in case["bidirectional"]))
        inputs = width + (case["source"] == "tokens")
    same = ("cell", "hidden", "layers", "residual", "bias", "bidirectional", "classes", "between")
    return stack(
        inputs=inputs,
        skip=skips[case["skip"]],
        vocabulary=11 if case["source"] == "embedding" else None,
        masks=case["masks"],
        bare_tokens=case["source"] == "tokens",
        **{name: case[name] for name in same},
    )
