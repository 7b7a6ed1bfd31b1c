"""A character model and an audio model, trained in PyTorch with one import changed.

Both are trained twice from the same seed, with torch.nn's LSTM and with gradcore.torch's, each in
its own process. The script prints seconds per update (without the first), the memory that the
training added, and the losses.

characters: Embedding, two LSTM layers of 128, Linear; the model predicts the next byte of the
  source of Python's standard library, from 16 sequences of 2,000 bytes with Adam and gradients
  clipped at norm 1.
audio: LSTM of 32 units, Linear; the model learns an overdriven amplifier (a diode clipper simulated
  at 48 kHz) from sequences of 100,000 samples (2.1 s) of spoken digits resampled to 48 kHz, 4 at a
  time.

    python benchmarks/compare/torch_models.py [--updates 30] [--plot docs/torch-models.png]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gradcore.torch

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "torch.nn": nn.LSTM,
    "gradcore.torch": gradcore.torch.LSTM,
    "gradcore.torch, 32 MB": partial(gradcore.torch.LSTM, memory="32MB"),
}
BATCHES = 4
SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"

Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Characters(nn.Module):
    def __init__(self, lstm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 32)
        self.lstm = lstm(32, 128, num_layers=2)
        self.head = nn.Linear(128, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def source_code(steps: int = 2000, batch: int = 16) -> Batches:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    rng = np.random.default_rng(0)
    made = []
    for starts in rng.integers(0, len(text) - steps - 1, (BATCHES, batch)):
        rows = np.stack([text[s : s + steps + 1] for s in starts], 1).astype(np.int64)
        made.append((torch.from_numpy(rows[:-1]), torch.from_numpy(rows[1:])))
    return made


class Amplifier(nn.Module):
    def __init__(self, lstm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.lstm = lstm(1, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0]) + x


def overdriven(steps: int = 100_000, batch: int = 4) -> Batches:
    """Speech (a sweep where the recordings are missing) and the output of the circuit for it."""
    rng = np.random.default_rng(0)
    sound = np.concatenate(recordings() or [sweep()])
    count = BATCHES * batch
    starts = rng.integers(0, len(sound) - steps, count)
    x = np.stack([sound[s : s + steps] for s in starts], 1) * rng.uniform(0.5, 4.0, count)
    x, y = (torch.from_numpy(a.astype(np.float32)[..., None]) for a in (x, clipper(x)))
    return list(zip(x.split(batch, 1), y.split(batch, 1), strict=True))


def recordings() -> list[np.ndarray]:
    """60 spoken digits, recorded at 8 kHz and interpolated to 48 kHz."""
    found = []
    for path in sorted(SPEECH.glob("*.wav")):
        with wave.open(str(path)) as file:
            raw = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 2**15
        at = np.arange(6 * len(raw)) / 6
        found.append(np.interp(at, np.arange(len(raw)), raw / np.abs(raw).max()))
    return found


def sweep() -> np.ndarray:
    t = np.arange(20 * 48_000) / 48_000
    return np.sin(2 * np.pi * (50 + 200 * t) * t)


def clipper(x: np.ndarray, substeps: int = 2) -> np.ndarray:
    """Solves dV/dt = (x - V)/(R C) - 2 I sinh(V/v)/C by the implicit midpoint rule with Newton's
    method.
    """
    resistance, capacity, saturation, thermal = 2.2e3, 10e-9, 2.52e-9, 45.3e-3
    h = 1 / 48_000 / substeps
    v, out = np.zeros(x.shape[1]), np.empty_like(x)
    for t in range(len(x)):
        for _ in range(substeps):
            new = v.copy()
            for _ in range(4):
                middle = 0.5 * (v + new)
                bend = np.clip(middle / thermal, -40, 40)
                rate = (x[t] - middle) / (resistance * capacity) - (
                    2 * saturation / capacity * np.sinh(bend)
                )
                slope = -0.5 / (resistance * capacity) - (
                    saturation / capacity / thermal * np.cosh(bend)
                )
                new = new - np.clip((new - v - h * rate) / (1 - h * slope), -0.5, 0.5)
            v = new
        out[t] = v
    return out


def cross_entropy(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten())


Model = tuple[Callable[[Any], nn.Module], Callable[[], Batches], Callable[..., Any], float]
MODELS: dict[str, Model] = {
    "characters": (Characters, source_code, cross_entropy, 3e-3),
    "audio": (Amplifier, overdriven, nn.functional.mse_loss, 3e-3),
}


def train(name: str, library: str, updates: int) -> dict[str, Any]:
    make, data, criterion, lr = MODELS[name]
    torch.manual_seed(0)
    model = make(LAYERS[library])
    optimizer = torch.optim.Adam(model.parameters(), lr)
    batches, losses, seconds = data(), [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(updates):
        x, y = batches[step % len(batches)]
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(float(loss.detach()))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "losses": losses, "added_mb": (after - before) * 1024 / 1e6}


def measured(name: str, library: str, updates: int) -> dict[str, Any]:
    """Runs one training in its own process, so that its memory can be measured."""
    command = [sys.executable, __file__, "--one", name, library, "--updates", str(updates)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(9, 6), layout="constrained")
    for column, (name, by_library) in enumerate(results.items()):
        for (library, found), style in zip(by_library.items(), ("-", "--", ":"), strict=True):
            clock = np.cumsum(found["seconds"])
            axes[0, column].plot(found["losses"], style, label=library)
            axes[1, column].plot(clock, found["losses"], style, label=library)
        axes[0, column].set(title=name, xlabel="update", ylabel="loss")
        axes[1, column].set(xlabel="seconds", ylabel="loss")
        for row in (0, 1):
            axes[row, column].legend()
            if name == "audio":
                axes[row, column].set_yscale("log")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "LIBRARY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(*args.one, args.updates)))
        return
    if not list(SPEECH.glob("*.wav")):
        print("The recordings are missing, so the audio model learns from a sweep.")
    print("| model | layer | seconds per update | added memory | last loss | largest difference |")
    print("|---|---|---|---|---|---|")
    results = {}
    for name in MODELS:
        by_library = {library: measured(name, library, args.updates) for library in LAYERS}
        results[name] = by_library
        theirs = np.array(by_library["torch.nn"]["losses"])
        for library, found in by_library.items():
            apart = np.abs(np.array(found["losses"]) / theirs - 1).max()
            print(
                f"| {name} | {library} | {np.median(found['seconds'][1:]):.3g} | "
                f"{found['added_mb']:.0f} MB | {found['losses'][-1]:.5g} | {apart:.1e} |",
                flush=True,
            )
    if args.plot:
        draw(results, args.plot)


if __name__ == "__main__":
    main()
