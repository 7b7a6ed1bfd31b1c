"""Learning-rate schedules agree with torch.optim.lr_scheduler; their state dicts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gradcore as gd

BASE = 0.3


def torch_factors(make, steps):
    """The factors of the base rate that a torch scheduler gives to the first updates."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"] / BASE)
        optimizer.step()
        scheduler.step()
    return factors


def sequential(lib, optimizer):
    first = lib.LinearLR(optimizer, start_factor=0.25, total_iters=6)
    second = lib.CosineAnnealingLR(optimizer, T_max=14, eta_min=0.1 * BASE)
    return lib.SequentialLR(optimizer, [first, second], milestones=[6])


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (gd.schedule.Constant(), lambda lib, o: lib.LambdaLR(o, lambda _: 1.0)),
        (gd.schedule.Constant(0.5), lambda lib, o: lib.LambdaLR(o, lambda _: 0.5)),
        (
            gd.schedule.WarmUp(7, start=0.2),
            lambda lib, o: lib.LinearLR(o, start_factor=0.2, total_iters=7),
        ),
        (
            gd.schedule.WarmUp(4),
            lambda lib, o: lib.LinearLR(o, start_factor=0.2, total_iters=4),
        ),
        (gd.schedule.Cosine(20), lambda lib, o: lib.CosineAnnealingLR(o, T_max=20)),
        (
            gd.schedule.Cosine(20, final=0.1),
            lambda lib, o: lib.CosineAnnealingLR(o, T_max=20, eta_min=0.1 * BASE),
        ),
        (
            gd.schedule.Step(4, gamma=0.7),
            lambda lib, o: lib.StepLR(o, step_size=4, gamma=0.7),
        ),
        (gd.schedule.WarmUp(6, gd.schedule.Cosine(14, final=0.1), start=0.25), sequential),
    ],
)
# SequentialLR of some versions of torch warns about its own use of the epoch argument.
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
def test_factors_are_those_of_torch(schedule, make):
    factors = [schedule.factor(step) for step in range(20)]
    np.testing.assert_allclose(factors, torch_factors(make, 20), rtol=1e-12, atol=1e-15)


def test_a_cosine_stays_at_its_end():
    schedule = gd.schedule.Cosine(10, final=0.2)
    assert [schedule.factor(step) for step in (10, 11, 10**9)] == [0.2] * 3


def test_factors_far_out_are_numbers():
    assert gd.schedule.Step(1, gamma=0.5).factor(10**6) == 0.0
    assert gd.schedule.Step(10, gamma=1.0).factor(10**12) == 1.0
    assert gd.schedule.Step(1, gamma=2.0).factor(10**6) == math.inf


def scores():
    rng = np.random.default_rng(3)
    falling = [5.0 * 0.8**i + 0.3 * abs(float(rng.normal())) for i in range(20)]
    return [*falling, *(0.5 + 0.1 * float(rng.normal()) for _ in range(40))]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"factor": 0.5, "patience": 0, "cooldown": 3},
        {"factor": 0.5, "patience": 1, "mode": "max", "threshold": 0.05},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs", "mode": "max", "cooldown": 1},
        {"factor": 0.5, "patience": 1, "min_factor": 0.1},
    ],
)
def test_a_plateau_is_that_of_torch(options):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    theirs = dict(options)
    min_lr = theirs.pop("min_factor", 0.0) * BASE
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, min_lr=min_lr, eps=0, **theirs
    )
    schedule = gd.schedule.Plateau(**options)
    factors = set()
    for score in scores():
        schedule.observe(score)
        scheduler.step(score)
        factor = schedule.factor(0)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"] / BASE, rel=1e-12)
        factors.add(factor)
    assert len(factors) > 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_not_better(bad):
    schedule = gd.schedule.Plateau(0.5, patience=1)
    schedule.observe(bad)
    schedule.observe(1.0)
    assert schedule.factor(0) == 1.0
    for _ in range(2):
        schedule.observe(bad)
    assert schedule.factor(0) == 0.5
    json.dumps(schedule.state_dict(), allow_nan=False)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plateau_continues_from_its_state_dict(wrapped):
    def make():
        plateau = gd.schedule.Plateau(0.7, patience=1, cooldown=2)
        return gd.schedule.WarmUp(3, plateau) if wrapped else plateau

    whole, first = make(), make()
    for score in scores()[:31]:
        whole.observe(score)
        first.observe(score)
    second = make()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for score in scores()[31:]:
        whole.observe(score)
        second.observe(score)
        assert second.factor(5) == whole.factor(5)
    assert second.factor(5) < 0.5
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "schedule",
    [
        gd.schedule.Constant(),
        gd.schedule.WarmUp(3, gd.schedule.Cosine(5)),
        gd.schedule.Cosine(5),
        gd.schedule.Step(5),
        gd.schedule.Plateau(),
    ],
)
def test_wrong_state_dicts(schedule):
    state = json.loads(json.dumps(schedule.state_dict()))
    schedule.load_state_dict(state)
    name = type(schedule).__name__
    with pytest.raises(gd.ArgumentError, match=f"'kind' in the state of {name} must be"):
        schedule.load_state_dict({**state, "kind": "adam"})
    with pytest.raises(gd.ArgumentError, match=f"state of {name} must have .*unknown: more"):
        schedule.load_state_dict({**state, "more": 1})
    with pytest.raises(gd.DTypeError, match=f"state of {name} must be a dict"):
        schedule.load_state_dict([1])
    with pytest.raises(gd.ArgumentError, match="must have the key 'kind'"):
        schedule.load_state_dict({})


def test_a_wrong_value_in_the_state_of_a_plateau_changes_nothing():
    schedule = gd.schedule.Plateau(0.5, patience=0)
    for score in (1.0, 2.0):
        schedule.observe(score)
    state = schedule.state_dict()
    for key, value, error in [
        ("factor", "1", gd.DTypeError),
        ("factor", -1.0, gd.ArgumentError),
        ("best", math.nan, gd.ArgumentError),
        ("bad", 0.5, gd.DTypeError),
        ("cooling", -1, gd.ArgumentError),
    ]:
        with pytest.raises(error, match=f"'{key}' in the state of Plateau must be"):
            schedule.load_state_dict({**state, "factor": 0.9, key: value})
        assert schedule.state_dict() == state


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.schedule.Constant(-1), gd.ArgumentError, r"Constant\.value must be >= 0"),
        (lambda: gd.schedule.WarmUp(0), gd.ArgumentError, r"WarmUp\.steps must be at least 1"),
        (lambda: gd.schedule.WarmUp(3, 0.1), gd.DTypeError, r"WarmUp\.then must be"),
        (lambda: gd.schedule.WarmUp(3, start=-1), gd.ArgumentError, r"WarmUp\.start must be >= 0"),
        (lambda: gd.schedule.Cosine(1.5), gd.DTypeError, r"Cosine\.steps must be an integer"),
        (lambda: gd.schedule.Cosine(5, -1), gd.ArgumentError, r"Cosine\.final must be >= 0"),
        (lambda: gd.schedule.Step(0), gd.ArgumentError, r"Step\.step_size must be at least 1"),
        (lambda: gd.schedule.Step(1, 0), gd.ArgumentError, r"Step\.gamma must be > 0"),
        (
            lambda: gd.schedule.Plateau(1.0),
            gd.ArgumentError,
            r"Plateau\.factor must be > 0 and < 1",
        ),
        (
            lambda: gd.schedule.Plateau(patience=-1),
            gd.ArgumentError,
            r"patience must be at least 0",
        ),
        (lambda: gd.schedule.Plateau(mode="up"), gd.ArgumentError, "mode must be one of 'min'"),
        (lambda: gd.schedule.Plateau().observe("1"), gd.DTypeError, "score must be a number"),
        (lambda: gd.schedule.Constant().observe(None), gd.DTypeError, "score must be a number"),
        (lambda: gd.schedule.Constant().factor(-1), gd.ArgumentError, "step counts from 0; got -1"),
        (lambda: gd.schedule.Constant().factor(1.0), gd.DTypeError, "step must be an integer"),
    ],
)
def test_wrong_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_warm_up_of_more_steps_than_floats_count():
    with pytest.raises(gd.ArgumentError, match=r"WarmUp.steps must be below 2\*\*53"):
        gd.schedule.WarmUp(10**400)
    assert gd.schedule.WarmUp(2**53 - 1).factor(1) < 1e-14
