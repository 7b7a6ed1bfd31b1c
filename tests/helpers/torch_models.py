"""Models of PyTorch whose gradients leave float32. Imported where PyTorch is known to be there."""

import torch
from torch import nn

import gradcore.torch as gt

GROWTH = 1.3


def exploding(dtype=torch.float32, hidden=8, growth=GROWTH):
    """h stays 0 and every step multiplies its gradient by 1.3, which makes 10^228 after 2,000
    steps.
    """
    layer = gt.RNN(1, hidden, dtype=dtype)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_hh_l0.copy_(growth * torch.eye(hidden))
    return layer


class Tagger(nn.Module):
    """A recurrent layer with a linear head at every step."""

    def __init__(self, layer, classes=3):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, classes)

    def forward(self, x):
        return self.head(self.layer(x)[0])
