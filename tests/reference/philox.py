"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, sec. 3.3), and gradcore's masks made with it.

A mask is a function of (seed, step) of the call, the layer's place in the net, the kind of mask,
time step, sequence and unit; gradcore.h describes how these form the counter and the key.
"""

from dataclasses import dataclass

import numpy as np

WORD = 2**32
DROPOUT, ZONEOUT, ZONEOUT_CELL, RECURRENT = range(4)


def philox(counter, key):
    """Returns four words from a counter of four words and a key of two; words are Python
    integers.
    """
    c, (k0, k1) = tuple(counter), key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], WORD)
        high1, low1 = divmod(0xCD9E8D57 * c[2], WORD)
        c = (high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0)
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c


@dataclass(frozen=True)
class Mode:
    """Training or evaluation, and the two numbers of the call on which masks depend."""

    train: bool = False
    seed: int = 0
    step: int = 0

    def counter(self, n, b, t, place, kind):
        """The four words from which the masks of units 4n..4n+3 of sequence b are drawn."""
        return n, b, t, 8 * place + kind

    def below(self, p, place, kind, t, batch, units):
        """Where in [B, H] a random number in [0, 1) is below p."""
        name = (int.from_bytes(b"grad", "big"), int.from_bytes(b"core", "big"))
        halves = (self.seed % WORD, self.seed // WORD, self.step % WORD, self.step // WORD)
        key = philox(halves, name)[:2]
        words = [
            [
                w
                for n in range(-(-units // 4))
                for w in philox(self.counter(n, b, t, place, kind), key)
            ]
            for b in range(batch)
        ]
        return np.array(words)[:, :units] < min(int(p * WORD + 0.5), WORD - 1)

    def factors(self, p, place, kind, t, batch, units):
        """0 with probability p, otherwise 1 / (1 - p), so that the mean is 1; always 1 in
        evaluation.
        """
        if not self.train or p == 0:
            return np.ones((batch, units))
        return np.where(self.below(p, place, kind, t, batch, units), 0.0, 1 / (1 - p))

    def held(self, p, place, kind, t, batch, units):
        """1 with probability p, otherwise 0; always p in evaluation."""
        if not self.train or p == 0:
            return np.full((batch, units), p)
        return self.below(p, place, kind, t, batch, units).astype(float)
