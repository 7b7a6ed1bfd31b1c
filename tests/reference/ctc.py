"""Connectionist temporal classification by its definition: a sum over all alignments."""

import itertools

import numpy as np

from .losses import log_softmax


def collapsed(path, blank):
    """What an alignment spells: without repetitions, then without blanks."""
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def probabilities(logits, blank):
    """The probability of each sequence of labels, for logits (T, C) that may be complex."""
    p = np.exp(log_softmax(logits))
    found = {}
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        labels = collapsed(path, blank)
        product = np.prod([p[t, c] for t, c in enumerate(path)])
        found[labels] = found.get(labels, 0.0) + product
    return found


def loss(logits, labels, blank):
    """-log of the probability of the labels, infinity if no alignment spells them."""
    p = probabilities(logits, blank).get(tuple(labels), 0.0)
    return -np.log(p) if p != 0.0 else np.inf


def gradient(logits, labels, blank):
    """By a complex step for each logit; zero where the loss is infinite."""
    slopes = np.zeros(logits.shape)
    if not np.isfinite(loss(logits, labels, blank)):
        return slopes
    for at in np.ndindex(logits.shape):
        moved = logits.astype(complex)
        moved[at] += 1e-100j
        slopes[at] = loss(moved, labels, blank).imag * 1e100
    return slopes


def by_logarithms(logits, labels, blank):
    """The loss by forward variables in log space (Graves et al. 2006, eq. 6 to 8); many steps."""
    log_p = log_softmax(logits)
    states = [blank, *itertools.chain.from_iterable((c, blank) for c in labels)]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_p[0, states[:2]]
    for row in log_p[1:]:
        before = alpha.copy()
        for s, c in enumerate(states):
            terms = [before[s]] + [before[s - 1]] * (s > 0)
            if s > 1 and c != blank and c != states[s - 2]:
                terms.append(before[s - 2])
            alpha[s] = np.logaddexp.reduce(terms) + row[c]
    return -np.logaddexp.reduce(alpha[-2:])
