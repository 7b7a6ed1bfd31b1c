"""A net as a plain loop in PyTorch in float64, differentiated by autograd.

Each sequence is run alone, from its start to its own end, so that padding is never read.
"""

import numpy as np
import pytest
import torch

from problem import Solution

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}


def cell_step(layer, p, signal, h, c):
    x_pre = p["weight_ih"] @ signal + p.get("bias_ih", 0.0)
    kind, weight = type(layer).__name__, p["weight_hh"]
    if kind == "AntisymmetricRNN":
        weight = weight - weight.T - layer.diffusion * torch.eye(len(weight), dtype=torch.double)
    h_pre = weight @ h + p.get("bias_hh", 0.0)
    if kind == "AntisymmetricRNN":
        return h + layer.step * torch.tanh(x_pre + h_pre), None
    if kind == "RNN":
        return ACTIVATIONS[layer.nonlinearity](x_pre + h_pre), None
    if kind == "LSTM":
        i, f, g, o = (x_pre + h_pre).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if kind != "GRU":
        pytest.skip(f"there is no {kind} in torch_loop.py, where PyTorch is the third opinion")
    x_r, x_z, x_n = x_pre.chunk(3)
    h_r, h_z, h_n = h_pre.chunk(3)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (1 - z) * n + z * h, None


def with_skip(layer, p, cell, old):
    skip = layer.skip
    if skip is None:
        return cell
    if skip.kind == "add":
        return cell + (p["skip_scale"] if skip.learned else skip.value) * old
    a = torch.sigmoid(p["skip_logit"]) if skip.learned else skip.value
    return (1 - a) * cell + a * old


def run_sequence(net, params, inputs, resets, pasts, cs):
    """The outputs of one sequence, a list of [O]; changes pasts (lists of the last k outputs) and
    cs.
    """
    outputs = []
    for signal, reset in zip(inputs, resets, strict=True):
        for n, (place, layer) in enumerate(net):
            p = params[place]
            if reset:
                pasts[n] = [torch.zeros_like(h) for h in pasts[n]]
                cs[n] = None if cs[n] is None else torch.zeros_like(cs[n])
            cell, cs[n] = cell_step(layer, p, signal, pasts[n][-1], cs[n])
            h = with_skip(layer, p, cell, pasts[n][0])
            pasts[n] = [*pasts[n][1:], h]
            signal = h + signal if layer.residual else h
        if "weight" in params[-1]:
            signal = params[-1]["weight"] @ signal + params[-1].get("bias", 0.0)
        outputs.append(signal)
    return outputs


def loss_value(loss, outputs, y, weight, lengths):
    """Sum or mean over sequences and their own steps, with PyTorch's losses."""
    total, divisor = torch.zeros((), dtype=torch.double), 0.0
    for b, length in enumerate(lengths):
        steps = range(length) if loss.step == "all" else range(max(length - 1, 0), length)
        for t in steps:
            at = (t, b) if loss.step == "all" else (b,)
            w = 1.0 if weight is None else weight[at]
            z = outputs[b][t][None]
            if loss.kind == "cross_entropy":
                target = torch.tensor([int(y[at])])
                if target == loss.ignore_index:
                    continue
                class_weight = 1.0 if loss.weight is None else loss.weight[int(target)]
                w = w * class_weight
                term, count = torch.nn.functional.cross_entropy(z, target), 1
            else:
                target, count = torch.from_numpy(np.array(y[at]))[None], z.numel()
                name = "mse_loss" if loss.kind == "mse" else "binary_cross_entropy_with_logits"
                term = getattr(torch.nn.functional, name)(z, target, reduction="sum")
            total = total + w * term
            divisor += w * count
    return total / divisor if loss.reduction == "mean" and divisor else total


def by_torch_loop(problem):
    layers = problem.net.layers
    n_steps, batch = problem.x.shape[:2]
    leaves = {k: torch.tensor(a, requires_grad=True) for k, a in problem.params.items()}
    nested = {i: {} for i in range(len(layers))}
    for name, leaf in leaves.items():
        place, short = name.split(".")
        nested[int(place)][short] = leaf
    nested[-1] = nested[len(layers) - 1] if hasattr(layers[-1], "out_features") else {}
    net = [(i, a) for i, a in enumerate(layers) if hasattr(a, "hidden_size")]
    past = [torch.tensor(s.past, requires_grad=True) for s in problem.state]
    c = [None if s.c is None else torch.tensor(s.c, requires_grad=True) for s in problem.state]
    lengths = np.full(batch, n_steps) if problem.lengths is None else problem.lengths
    reset = np.zeros((n_steps, batch), bool) if problem.reset is None else problem.reset
    x = problem.x if problem.tokens else torch.tensor(problem.x, requires_grad=True)

    outputs, final_past, final_c = [], [], []
    for b, length in enumerate(lengths):
        if "num_embeddings" in vars(layers[0]):
            inputs = [nested[0]["weight"][v] for v in problem.x[:length, b]]
        elif problem.tokens:
            size = layers[0].input_size
            inputs = [torch.eye(size, dtype=torch.double)[v] for v in problem.x[:length, b]]
        else:
            inputs = [x[t, b] for t in range(length)]
        pasts = [list(p[:, b]) for p in past]
        cs = [None if a is None else a[b] for a in c]
        outputs.append(run_sequence(net, nested, inputs, reset[:length, b], pasts, cs))
        final_past.append([torch.stack(p) for p in pasts])
        final_c.append(cs)
    value = loss_value(problem.loss, outputs, problem.y, problem.weight, lengths)
    value.backward()

    width = problem.net.output_size
    table = np.zeros((n_steps, batch, width))
    for b, steps in enumerate(outputs):
        for t, output in enumerate(steps):
            table[t, b] = output.detach().numpy()
    state, dstate = {}, {}
    for n in range(len(net)):
        state[f"{n}.past"] = np.stack([p[n].detach().numpy() for p in final_past], axis=1)
        dstate[f"{n}.past"] = gradient(past[n])
        if c[n] is not None:
            state[f"{n}.c"] = np.stack([a[n].detach().numpy() for a in final_c])
            dstate[f"{n}.c"] = gradient(c[n])
    dx = None
    if not problem.tokens:
        dx = gradient(x)
    return Solution(
        float(value.detach()), {k: gradient(a) for k, a in leaves.items()}, dx, dstate, state, table
    )


def gradient(leaf):
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
