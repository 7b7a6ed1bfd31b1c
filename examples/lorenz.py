"""A GRU learns the Lorenz system from a trajectory; does it have the same Lyapunov exponent?

The net reads a point of the attractor and predicts the next one. Then it is fed with its own
outputs, and the largest Lyapunov exponent of that closed loop is compared with 0.9056, that of the
Lorenz system (Sprott 2003, table 5.1).
"""

import argparse

import numpy as np
from scipy.integrate import solve_ivp

import gradcore as gd

DT, HIDDEN, WARM = 0.02, 64, 500


def lorenz(_, s):
    x, y, z = s
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z


def trajectory(count):
    """Points of the attractor at intervals DT, scaled to standard deviation 1."""
    times = DT * np.arange(count + WARM)
    found = solve_ivp(lorenz, times[[0, -1]], [1, 1, 20], t_eval=times, rtol=1e-9, atol=1e-9)
    return (found.y.T[WARM:] - [0, 0, 23.5]) / [7.9, 9.0, 8.6]


def train(points, updates):
    net = gd.Stack(gd.GRU(3, HIDDEN), gd.Linear(HIDDEN, 3))
    params = net.init(seed=0)
    steps = (points[1:] - points[:-1]) / DT / 8  # of size 1, approximately
    x, y = points[:-1].astype(np.float32), steps.astype(np.float32)
    data = gd.data.Stream(x, y, k1=200, batch_size=16)
    optimizer = gd.optim.Adam(params, 3e-3, clip=gd.clip.Auto())
    rate = gd.schedule.Cosine(updates)
    trainer = gd.Trainer(net, params, optimizer, loss="mse", schedule=rate)
    print(f"squared error of a step: {trainer.fit(data, steps=updates).losses[-1]:.2e}")
    return net, params.astype("float64")


def closed_loop(net, params):
    """The net in a closed loop: (state h, point) -> next state, and tangents of it."""

    def parts(s):
        return s[None, None, HIDDEN:], [gd.LayerState(s[None, :HIDDEN])]

    def step(s):
        x, state = parts(s)
        out, after = gd.apply(net, params, x, state=state)
        return np.concatenate([after[0].h[0], s[HIDDEN:] + 8 * DT * out[0, 0]])

    def tangent(s, v):
        x, state = parts(s)
        dx, dh = v[HIDDEN:].T[:, None, None], [gd.LayerState(v[:HIDDEN].T[:, None])]
        moved = gd.jacobian.jvp(net, params, x, dx=dx, dstate=dh, state=state)
        return np.concatenate(
            [moved.dstate[0].h[:, 0].T, v[HIDDEN:] + 8 * DT * moved.d_outputs[:, 0, 0].T]
        )

    return step, tangent


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the closed loop")
    args = parser.parse_args()
    points = trajectory(20_000)
    net, params = train(points, args.updates)
    h = gd.apply(net, params, points[:WARM, None])[1][0].h[0]
    start = np.concatenate([h, points[WARM]])
    found = gd.lyapunov.of_map(*closed_loop(net, params), start, args.steps, 1)
    own, error = found.exponents[0, 0] / DT, found.standard_error[0, 0] / DT
    print(f"largest Lyapunov exponent of the net: {own:.3f} +- {error:.3f}; Lorenz: 0.9056")


if __name__ == "__main__":
    main()
