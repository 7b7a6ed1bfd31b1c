"""Makes checkpoints of a training and restores it: settings to compare, states of all parts."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

from .._base.checks import positive_int
from .._net import io
from .._net.stack import Stack
from .._net.state import flatten, state_size, unflatten
from ..errors import ArgumentError, CheckpointError, DTypeError, GradcoreError, ShapeError
from ..loss import Loss
from ..optim import Average
from ..schedule import Schedule
from ..stability import StabilityMonitor
from .checkpoint import TrainingCheckpoint
from .feed import Feed
from .runs import RunFolder
from .updates import Carried, Updater

__all__ = ["refuse_other_settings", "restore", "settings_of", "states_of"]

# What checkpoints of earlier versions do not have, so that their runs can be resumed.
SINCE = ("contents", "roles", "validation")

States = dict[str, dict[str, Any]]


def settings_of(
    updater: Updater, data: dict[str, Any], validation: dict[str, Any] | None, maximise: bool
) -> dict[str, Any]:
    """The settings that must be the same for a run to resume with the same bits, as JSON values.

    data, validation: what Feed.describe tells of them; validation is None if there is none. The net
    is not among them: it is compared as an object, because later versions may describe it with more
    fields.
    """
    optimizer = updater.optimizer
    state = optimizer.state_dict()
    settings = {
        "dtype": str(updater.params.dtype),
        "optimizer": {
            **{name: state[name] for name in ("kind", "lr", "weight_decay", "options")},
            "clip": repr(optimizer.clip),
            "groups": [repr(group) for group in optimizer.groups],
            "constraints": [repr(constraint) for constraint in optimizer.constraints],
        },
        "loss": repr(updater.loss) if isinstance(updater.loss, Loss) else "a function",
        "schedule": _described(updater.schedule),
        "average": _described(updater.average),
        "stability": _described(updater.stability),
        "accumulate": updater.accumulate,
        "seed": updater.seed,
        "maximise": maximise,
        "data": data,
        "validation": validation,
    }
    plain: dict[str, Any] = json.loads(io.as_json("the settings of the training", settings))
    return plain


def states_of(updater: Updater, data: dict[str, Any], carried: Carried) -> States:
    """The state dicts of all parts, by name."""
    states = {
        "optimizer": updater.optimizer.state_dict(),
        "data": data,
        "carried": _flat(updater, carried),
    }
    if updater.schedule is not None:
        states["schedule"] = updater.schedule.state_dict()
    if updater.average is not None:
        states["average"] = updater.average.state_dict()
    if updater.stability is not None:
        states["stability"] = updater.stability.state_dict()
    return states


def restore(
    earlier: TrainingCheckpoint,
    settings: dict[str, Any],
    updater: Updater,
    feed: Feed,
    folder: RunFolder,
) -> Carried:
    """Restores parameters, parts and data from a checkpoint; returns its carried state.

    Raises ArgumentError naming the settings that differ, and CheckpointError for states that do not
    fit; nothing has changed then.
    """
    refuse_other_settings(earlier, settings, updater.net, folder)
    start = feed.state_dict()
    before = copy.deepcopy(states_of(updater, start, None))
    try:
        if set(before) != set(earlier.states):
            raise CheckpointError(f"it has the states of {', '.join(earlier.states)}")
        carried = _carried(updater, earlier.states["carried"])
        _load(updater, earlier.states)
        if updater.optimizer.steps >= 2**53:
            raise CheckpointError(f"{updater.optimizer.steps} updates are more than is possible")
        feed.load_state_dict(earlier.states["data"])
    except (GradcoreError, ValueError, TypeError, OverflowError) as error:
        _load(updater, before)
        feed.rewind(start)
        raise CheckpointError(
            f"{folder.last} cannot be resumed: {str(error).rstrip('.')}."
        ) from error
    np.copyto(updater.params.flat, earlier.params.flat)
    return carried


def refuse_other_settings(
    earlier: TrainingCheckpoint, settings: dict[str, Any], net: Stack, folder: RunFolder
) -> None:
    """Raises ArgumentError naming the settings that are not those that the run started with."""
    wrong = _differences(earlier.settings, settings)
    if earlier.params.net != net:
        wrong.insert(0, f"net was {earlier.params.net!r} and is {net!r}")
    if wrong:
        raise ArgumentError(
            f"{folder.folder} holds a run with other settings: {'; '.join(wrong)}. Pass the "
            "settings that the run started with, or choose another folder; nothing was changed."
        )


def _load(updater: Updater, states: States) -> None:
    """Loads the states of optimizer, schedule, average and stability monitor."""
    updater.optimizer.load_state_dict(states["optimizer"])
    if updater.schedule is not None:
        updater.schedule.load_state_dict(states["schedule"])
    if updater.average is not None:
        updater.average.load_state_dict(states["average"])
    if updater.stability is not None:
        updater.stability.load_state_dict(states["stability"])


def _flat(updater: Updater, carried: Carried) -> dict[str, Any]:
    """A carried state as a state dict."""
    if carried is None:
        return {}
    batch = carried[0].h.shape[0]
    flat = flatten(updater.net, batch, updater.params.dtype, carried)
    return {"batch": batch, "flat": flat}


def _carried(updater: Updater, state: dict[str, Any]) -> Carried:
    if not state:
        return None
    dtype, flat = updater.params.dtype, state.get("flat")
    if not isinstance(flat, np.ndarray) or flat.dtype != dtype:
        raise DTypeError(f"the carried state is not an array of {dtype}")
    batch = positive_int("the batch size of the carried state", state.get("batch"))
    if flat.shape != (state_size(updater.net, batch),):
        raise ShapeError("the carried state does not fit the net")
    return unflatten(updater.net, batch, flat)


def _described(part: Schedule | Average | StabilityMonitor | None) -> dict[str, Any] | None:
    """The class and options of a schedule, an average or a monitor, as JSON values."""
    if part is None:
        return None
    options = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    return {
        "kind": type(part).__name__,
        **{name: _described(v) if isinstance(v, Schedule) else v for name, v in options.items()},
    }


def _differences(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """The text "name was A and is B" for every setting that differs."""
    wrong = []
    for name in sorted({*earlier, *now}):
        old, new = earlier.get(name), now.get(name)
        # A run without validation data may get some, and one with them may go on without.
        if name in SINCE and (old is None or (name == "validation" and new is None)):
            continue
        if name == "contents" and isinstance(old, dict) and isinstance(new, dict):
            wrong += _other_contents(old, new, prefix)
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            wrong += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            wrong.append(f"{prefix}{name} was {_short(old)} and is {_short(new)}")
    return wrong


def _other_contents(earlier: dict[str, Any], now: dict[str, Any], prefix: str) -> list[str]:
    """The message about data whose numbers differ from those that the run started with.

    prefix: "data." or "validation.".
    """
    data = "the validation data" if prefix.startswith("validation") else "the data"
    names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    if not names:
        return []
    told = " and ".join(names)
    if len(names) > 1 and sorted(map(str, (earlier.get(name) for name in names))) == sorted(
        map(str, (now.get(name) for name in names))
    ):
        return [f"{told} of {data} have changed places"]
    return [f"the numbers in {told} of {data} differ from those that the run started with"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
