"""Nets that tests go through: every cell, every kind of skip."""

import gradcore as gd

# name -> function of (inputs, hidden, **options)
CELLS = {
    "rnn": gd.RNN,
    "relu": lambda i, h, **options: gd.RNN(i, h, nonlinearity="relu", **options),
    "identity": lambda i, h, **options: gd.RNN(i, h, nonlinearity="identity", **options),
    "lstm": gd.LSTM,
    "gru": gd.GRU,
}

# Added ones are subtracted here: added to the z h of a GRU, they could make a net explode.
SKIPS = {
    "none": None,
    "add": gd.Skip(1, kind="add", value=-0.4),
    "add learned": gd.Skip(2, kind="add", value=-0.3, learned=True),
    "mix": gd.Skip(5, kind="mix", value=0.3),
    "mix learned": gd.Skip(3, kind="mix", learned=True),
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
):
    """A net of equal layers; residual from the second on, or from the first if sizes allow.

    bidirectional: which of the layers are.
    """
    made = [] if vocabulary is None else [gd.Embedding(vocabulary, inputs)]
    width = inputs
    for i in range(layers):
        both = i in bidirectional
        options = {
            "bias": bias,
            "bidirectional": both,
            "skip": skip,
            "residual": residual and width == hidden * (1 + both),
        }
        made.append(CELLS[cell](width, hidden, **options))
        width = made[-1].output_size
    if classes is not None:
        made.append(gd.Linear(width, classes, bias=bias))
    return gd.Stack(*made)
