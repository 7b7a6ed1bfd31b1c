"""Samples of a product of choices in which every pair of values occurs together.

Most defects depend on at most two settings, so a pairwise sample finds them with a hundred cases
where the whole product has millions (Cohen et al. 1997, the AETG system).
"""

import itertools
import random


def label(case):
    """The name of a case, for the name of a test."""
    return "-".join(str(value) for value in case.values()).replace(" ", "_")


def covering(factors, *, seed=0, excluded=()):
    """Cases, as dicts with one value per factor, in which every pair occurs at least once.

    factors: maps a name to a list of distinct values. excluded: pairs ((name, value), (name,
    value)) that no case may contain.
    """
    rng = random.Random(seed)
    forbidden = {frozenset(pair) for pair in excluded}
    items = {name: [(name, value) for value in values] for name, values in factors.items()}
    open_pairs = {
        frozenset(pair)
        for a, b in itertools.combinations(items, 2)
        for pair in itertools.product(items[a], items[b])
    } - forbidden
    cases = []
    while open_pairs:
        # The set is sorted because the order of a set of strings changes from run to run.
        first = min(open_pairs, key=lambda pair: sorted(map(str, pair)))
        chosen = sorted(first, key=str)
        rest = [name for name in factors if name not in dict(chosen)]
        rng.shuffle(rest)
        for name in rest:
            allowed = [
                item
                for item in items[name]
                if all(frozenset((item, other)) not in forbidden for other in chosen)
            ]
            rng.shuffle(allowed)
            chosen.append(
                max(
                    allowed,
                    key=lambda item: sum(frozenset((item, o)) in open_pairs for o in chosen),
                )
            )
        open_pairs -= {frozenset(pair) for pair in itertools.combinations(chosen, 2)}
        cases.append({name: dict(chosen)[name] for name in factors})
    return cases
