"""Atomic writing of files, and locks of folders that only one process may write to."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["FolderLock", "remove_stale", "replace_file", "try_folder"]

# The file that is locked on Windows, where folders cannot be.
LOCK_FILE = ".lock"


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` make a temporary file and renames it to target, so readers see complete files.

    The content is flushed to disk before the rename, and the rename before the call returns:
    whenever the process is killed or the power fails, target is the previous or the new file.
    Raises OSError.
    """
    # The temporary file has its own folder, because `write` may make further files beside it.
    with _folder_beside(target) as folder:
        temporary = Path(folder) / target.name
        write(temporary)
        _sync(temporary, os.O_RDWR)
        # `write` may have made the file readable by its owner only; it gets the usual permissions.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    if sys.platform != "win32":
        _sync(target.parent, os.O_RDONLY)


def try_folder(target: Path) -> None:
    """Raises the OSError that replace_file would raise for an unusable folder or name of target."""
    with _folder_beside(target) as folder:
        (Path(folder) / target.name).touch()


def remove_stale(target: Path) -> None:
    """Removes temporary folders that killed calls of replace_file left beside target.

    No other process may be writing to the folder of target at this time.
    """
    prefix = _prefix(target)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=target.parent, prefix=_prefix(target), suffix=".tmp")


def _prefix(target: Path) -> str:
    """How names of temporary folders for target begin, with room for what tempfile adds.

    File systems take names of up to 255 bytes.
    """
    name = target.name
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


class FolderLock:
    """Locks a folder for this process until release() or until the process ends.

    Windows cannot lock folders, so there the first byte of a file LOCK_FILE inside it is locked.
    Raises BlockingIOError if another process holds the lock. Some network file systems have no
    locks: there nothing is locked, and the user must see to it that only one process writes.
    A forked child does not hold the lock: it lasts no longer than that of the process that took it.
    """

    def __init__(self, folder: Path) -> None:
        windows = sys.platform == "win32"
        target, flags = (
            (folder / LOCK_FILE, os.O_RDWR | os.O_CREAT) if windows else (folder, os.O_RDONLY)
        )
        self._handle: int | None = os.open(target, flags)
        try:
            _lock(self._handle)
        except BlockingIOError:
            self.close()
            raise
        except OSError:
            self.close()
        else:
            _held.add(self)

    def release(self) -> None:
        """Releases the lock; the system does so when the process ends."""
        if self._handle is not None:
            # Closing would leave the lock to a child that has just been forked.
            _unlock(self._handle)
        self.close()

    def close(self) -> None:
        """Closes the handle, and so releases the lock if no other process shares it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


# The locks of this process. A lock belongs to an open file, which a forked child shares: it is held
# until the child has closed its copy as well, so each child does that at once.
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_close_in_child)


def _lock(handle: int) -> None:
    """Locks an open file or folder; raises BlockingIOError if another process has locked it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, "locked by another process") from error
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(handle: int) -> None:
    if sys.platform != "win32":  # Windows unlocks what is closed
        import fcntl

        with suppress(OSError):  # from file systems without locks
            fcntl.flock(handle, fcntl.LOCK_UN)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The permissions that new files do not get, read without being changed.

    os.umask can only be read by setting it, and another thread would make files without any
    protection in between. Linux shows it in a file; elsewhere it is the one read at import.
    """
    told = _told_umask()
    return _UMASK_AT_IMPORT if told is None else told


def _told_umask() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    return int(found[1], 8) if found else None


def _umask_by_setting() -> int:
    # 077 is the strictest, so what another thread makes in between is at most too private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK_AT_IMPORT = _umask_by_setting() if _told_umask() is None else 0
