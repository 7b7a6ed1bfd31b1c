"""Files that are written whole or not at all, and folders that one process writes to."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["FolderLock", "remove_stale", "replace_file"]

# What Windows locks in a folder.
LOCK_FILE = ".lock"


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` make a file beside target and renames it, so that nobody sees half of one.

    The file is on the disk before its name is, and the name before the call returns: killed or
    without power at any moment, target is the previous or the new file. Raises OSError.
    """
    # A folder of its own, because a writer may make files beside the one it is asked for.
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
    ) as folder:
        temporary = Path(folder) / target.name
        write(temporary)
        _sync(temporary, os.O_RDWR)
        # The writer may have made it for its owner alone; this is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    if sys.platform != "win32":
        _sync(target.parent, os.O_RDONLY)


def remove_stale(target: Path) -> None:
    """Removes what killed calls of replace_file left beside target, in a folder of ours that
    nobody else is writing to.
    """
    prefix = f".{target.name}."
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)


class FolderLock:
    """Holds a folder for this process until release, or until the process is gone.

    Windows locks no folders: there the first byte of a file LOCK_FILE inside it is locked.
    Raises BlockingIOError if another one holds it. Nothing is held where the file system locks
    nothing, as some in networks; a run there is as safe as its user is.
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
            self.release()
            raise
        except OSError:
            self.release()

    def release(self) -> None:
        """Lets go; the system does it for a process that ends."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _lock(handle: int) -> None:
    """Locks an open file or folder; raises BlockingIOError where another process has."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, "locked by another process") from error
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
