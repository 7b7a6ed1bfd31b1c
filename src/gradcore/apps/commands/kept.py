"""The settings of a command in the folder of its run, so that --resume needs the folder only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import gradcore as gd

from ..._base.files import FolderLock
from ..._base.output import write_text
from ..._training.runs import LAST

__all__ = ["Settings", "recall", "remember"]

SETTINGS = "settings.json"
_MOST_BYTES = 10_000_000

# Dataclasses of options by name.
Settings = Mapping[str, Any]
_Options = TypeVar("_Options")


def remember(run: Path, command: str, files: list[Path], target: str, groups: Settings) -> None:
    """Writes the settings of a new training into its folder.

    Nothing is written if the folder holds a training already or if another process trains there;
    the trainer then reports the problem. Raises OSError.
    """
    run.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(run)
    except BlockingIOError:
        return
    try:
        if (run / LAST).exists():
            return
        told = {
            "command": command,
            "files": [str(path.absolute()) for path in files],
            "target": target,
            **{name: _values(options) for name, options in groups.items()},
        }
        write_text(run / SETTINGS, json.dumps(told, indent=1) + "\n")
    finally:
        lock.release()


def recall(run: Path, command: str, groups: Settings) -> tuple[list[Path], str, dict[str, Any]]:
    """The files, the target and the options of a training in a folder.

    groups: the options that were given; those that differ from the defaults stay as they are.
    Raises CheckpointError if the folder has no settings of this command, or damaged ones.
    """
    path = run / SETTINGS
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise gd.CheckpointError(f"{path} is damaged: it has more than {_MOST_BYTES:,} bytes.")
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise gd.CheckpointError(
            f"{run} has no {SETTINGS}, which says what it was trained on. Give the files and "
            "options that the training started with."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise gd.CheckpointError(f"cannot read {path}: {error}.") from error
    if not isinstance(told, dict) or told.get("command") != command:
        raise gd.CheckpointError(f"{path} has no settings of gradcore {command}.")
    files: Any = told.get("files")
    target: Any = told.get("target")
    if not _fits(list[str], files) or not _fits(str, target):
        raise gd.CheckpointError(f"{path} is damaged: it lacks the files or the target.")
    made = {name: _merged(path, name, given, told.get(name)) for name, given in groups.items()}
    return [Path(name) for name in files], target, made


def _values(options: Any) -> dict[str, Any]:
    """The options of a dataclass as JSON values; paths are absolute."""
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if "option" in field.metadata:
            found[field.name] = str(value.absolute()) if isinstance(value, Path) else value
    return found


def _merged(path: Path, name: str, given: _Options, told: Any) -> _Options:
    """The options that were given, and the recorded ones where the default was left."""
    fields = {f.name: f for f in dataclasses.fields(given)}  # type: ignore[arg-type]
    hints = get_type_hints(type(given))
    changes: dict[str, Any] = {}
    if not isinstance(told, dict) or not set(told) <= set(fields):
        raise gd.CheckpointError(f"{path} is damaged: {name} are not the options of this version.")
    for key, value in told.items():
        if not _fits(hints[key], value):
            raise gd.CheckpointError(f"{path} is damaged: {key} is {value!r:.60}.")
        if getattr(given, key) == fields[key].default:
            is_path = Path in (hints[key], *get_args(hints[key])) and value is not None
            changes[key] = Path(value) if is_path else value
    return dataclasses.replace(given, **changes)  # type: ignore[type-var]


def _fits(hint: Any, value: Any) -> bool:
    """Whether a JSON value is one of a type of options."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(one, value) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(get_args(hint)[0], one) for one in value)
    if hint in (None, NoneType):
        return value is None
    if hint is Path:
        return isinstance(value, str)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
