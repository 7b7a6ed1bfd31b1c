"""What audio plug-ins do with exported files: RTNeural's and NAM's own layers, in float64.

Written after RTNeural's model_loader.h, lstm.h, gru.h and dense.h, and after lstm.cpp and
get_dsp.cpp of NeuralAmpModelerCore: how they read weights, and what they compute from them.
"""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


ACTIVATIONS = {
    "": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": sigmoid,
}


def rtneural(content, x):
    """The outputs (T, O) of a parsed RTNeural file for x (T, I), from a state of zeros."""
    size = content["in_shape"][-1]
    for layer in content["layers"]:
        width = layer["shape"][-1]
        weights = [np.array(one) for one in layer["weights"]]
        assert weights[0].shape[0] == size
        x = {"lstm": _lstm, "gru": _gru, "dense": _dense}[layer["type"]](x, width, *weights)
        x = ACTIVATIONS[layer["activation"]](x)
        size = width
    return x


def _dense(x, width, kernel, bias):
    assert bias.shape == (width,)
    return x @ kernel + bias


def _lstm(x, width, kernel, recurrent, bias):
    """Columns in the order i, f, c, o."""
    assert recurrent.shape == (width, 4 * width)
    h = c = np.zeros(width)
    outputs = []
    for row in x:
        i, f, g, o = np.split(row @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def _gru(x, width, kernel, recurrent, bias):
    """Columns in the order z, r, c; bias[0] belongs to the kernel, bias[1] to the recurrence."""
    assert bias.shape == (2, 3 * width)
    h = np.zeros(width)
    outputs = []
    for row in x:
        wz, wr, wc = np.split(row @ kernel + bias[0], 3)
        uz, ur, uc = np.split(h @ recurrent + bias[1], 3)
        z = sigmoid(wz + uz)
        h = (1 - z) * np.tanh(wc + sigmoid(wr + ur) * uc) + z * h
        outputs.append(h)
    return np.array(outputs)


def nam(content, x):
    """The outputs (T,) of a parsed .nam file with an LSTM for x (T,), without the warm-up."""
    major, minor, _ = map(int, content["version"].split("."))
    assert (major, minor) == (0, 5)
    assert content["architecture"] == "LSTM"
    config = content["config"]
    width = config["hidden_size"]
    left = iter(content["weights"])

    def take(*shape):
        return np.array([next(left) for _ in range(int(np.prod(shape)))]).reshape(shape)

    layers = []
    for place in range(config["num_layers"]):
        inputs = width if place else config["input_size"]
        weight, bias = take(4 * width, inputs + width), take(4 * width)
        layers.append([weight, bias, take(width), take(width)])
    head_weight, head_bias = take(width), take(1)
    assert next(left, None) is None
    outputs = []
    for sample in x:
        signal = np.array([sample])
        for layer in layers:
            weight, bias, h, c = layer
            i, f, g, o = np.split(weight @ np.concatenate([signal, h]) + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            signal = sigmoid(o) * np.tanh(c)
            layer[2:] = signal, c
        outputs.append(head_weight @ signal + head_bias[0])
    return np.array(outputs)
