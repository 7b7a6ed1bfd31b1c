"""A net learns a nonlinear audio circuit, a diode clipper, from its input and output.

The recordings of --data are real speech; the output of the circuit is simulated here: C dv/dt = (u
- v)/R - 2 Is sinh(v/Vt), a low-pass filter whose output is clipped by two diodes. An LSTM is
trained on a stream of all recordings but those of one speaker, with its state carried from window
to window. It is evaluated by the error-to-signal ratio (ESR) on that speaker: sum (y - net)^2 / sum
y^2.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp
from scipy.io import wavfile
from scipy.signal import resample_poly

import gradcore as gd

RATE, MORE = 8_000, 4  # samples per second of the recordings, and the factor of oversampling here
R, C, IS, VT = 2_200.0, 10e-9, 2.52e-9, 0.0453  # ohm, farad, ampere, volt: two diodes 1N4148
DRIVE = 5.0  # volt at the loudest sample of a recording


def recordings(folder, wanted):
    """Voltages of the recordings of the wanted speakers, 32,000 per second."""
    paths = [p for p in sorted(Path(folder).glob("*.wav")) if wanted(p.stem.split("_")[1])]
    sounds = [resample_poly(wavfile.read(path)[1].astype(float), MORE, 1) for path in paths]
    return [DRIVE * sound / np.abs(sound).max() for sound in sounds]


def circuit(sounds):
    """The output of the clipper for all recordings, solved together as one stiff system."""
    longest = max(map(len, sounds))
    u = np.stack([np.pad(sound, (0, longest - len(sound))) for sound in sounds], axis=1)
    times = np.arange(longest) / (RATE * MORE)

    def slope(t, v):
        place = min(t * RATE * MORE, longest - 1.001)
        at, part = int(place), place % 1
        return ((u[at] * (1 - part) + u[at + 1] * part - v) / R - 2 * IS * np.sinh(v / VT)) / C

    found = solve_ivp(slope, times[[0, -1]], u[0], "LSODA", times, rtol=1e-5, lband=0, uband=0)
    return [out[: len(sound)] for sound, out in zip(sounds, found.y, strict=True)]


def stream(sounds, outs):
    starts = np.zeros(sum(map(len, sounds)), bool)
    starts[np.cumsum([0, *map(len, sounds)])[:-1]] = True
    x, y = (np.concatenate(parts)[:, None].astype(np.float32) for parts in (sounds, outs))
    return gd.data.Stream(x, y, k1=500, k2=1_000, batch_size=32, reset=starts)


def ratio(y, said):
    return np.sum((np.concatenate(y) - np.concatenate(said)) ** 2) / np.sum(np.concatenate(y) ** 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="../shared/data/speech")
    parser.add_argument("--speaker", default="theo", help="the speaker that is held out")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    known = recordings(args.data, lambda name: name != args.speaker)
    asked = recordings(args.data, lambda name: name == args.speaker)
    outs, wanted = circuit(known), circuit(asked)
    curve = np.polynomial.Polynomial.fit(np.concatenate(known), np.concatenate(outs), 9)
    print(f"ESR of the best curve without memory: {ratio(wanted, list(map(curve, asked))):.4f}")
    net = gd.Stack(gd.LSTM(1, 24), gd.Linear(24, 1))
    params = net.init(seed=0)
    data = stream(known, outs)
    rate = gd.schedule.Cosine(args.epochs * len(data))
    optimizer = gd.optim.Adam(params, 5e-3, clip=gd.clip.GlobalNorm(1.0))
    gd.Trainer(net, params, optimizer, loss="mse", schedule=rate).fit(data, epochs=args.epochs)
    said = [gd.apply(net, params, u[:, None, None].astype("f4"))[0][:, 0, 0] for u in asked]
    print(f"ESR of the net: {ratio(wanted, said):.6f}")


if __name__ == "__main__":
    main()
