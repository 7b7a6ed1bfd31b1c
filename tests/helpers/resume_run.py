"""A small training in which everything has a state; run as a script, it can be killed anywhere.

`python resume_run.py FOLDER` resumes the run in the folder. It prints a line before every batch and
around every part of the writing of a file, and pauses after it, so that it can be killed at that
moment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import gradcore as gd
from gradcore._base import files
from gradcore._net import io

STEPS = 400
NET = gd.Stack(gd.Embedding(5, 4), gd.LSTM(4, 8, skip=gd.Skip(3)), gd.GRU(8, 8), gd.Linear(8, 5))
TOKENS = np.cumsum(np.random.default_rng(7).integers(0, 3, 1_500)) % 5


class AnnouncedStream(gd.data.Stream):
    """A stream that calls `tell` before it gives a batch."""

    tell = staticmethod(lambda line: None)

    def take(self):
        self.tell(f"batch {self.epoch} {self.position}")
        return super().take()


def make():
    """Trainer, data and the arguments of fit, always the same."""
    params = NET.init(seed=2)
    optimizer = gd.optim.AdamW(
        params,
        lr=0.02,
        clip=gd.clip.ZScore(2.0, decay=0.9),
        groups=[gd.optim.no_decay(params), gd.optim.Group("0.*", lr_scale=0.5)],
    )
    trainer = gd.Trainer(
        NET,
        params,
        optimizer,
        loss="cross_entropy",
        schedule=gd.schedule.WarmUp(20, gd.schedule.Plateau(0.7, patience=3)),
        average=gd.optim.Average(params, decay=0.9, start=5),
        accumulate=2,
        seed=5,
        threads=1,
        quiet=True,
    )
    reset = np.arange(len(TOKENS) - 1) % 400 == 0
    data = AnnouncedStream(
        TOKENS[:-1], TOKENS[1:], batch_size=2, k1=20, k2=50, burn_in=30, reset=reset
    )
    held_out = gd.data.Sequences(
        [TOKENS[:100], TOKENS[100:150]],
        [TOKENS[1:101], TOKENS[101:151]],
        batch_size=1,
        shuffle=False,
    )
    return trainer, data, {"validation": held_out, "every": 3, "save_every": 2}


def main(folder: Path) -> None:
    def tell(line: str) -> None:
        print(line, flush=True)
        time.sleep(0.0005)

    def told(name, function):
        def call(*args):
            tell(f"before {name}")
            result = function(*args)
            tell(f"after {name}")
            return result

        return call

    io.save_file = told("write", io.save_file)
    files._sync = told("sync", files._sync)
    trainer, data, options = make()
    data.tell = tell
    tell("start")
    trainer.fit(data, steps=STEPS, run=folder, resume=True, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
