"""A folder is held by one process at a time, with the locks of either system."""

import os
import sys
import types

import pytest

from gradcore._base.files import LOCK_FILE, FolderLock

fcntl = pytest.importorskip("fcntl", reason="stands for Windows' locks as well")


@pytest.fixture
def windows(monkeypatch):
    """Stands for msvcrt with flock behind it, which refuses with the error that Windows gives."""

    def locking(handle, mode, count):
        assert (mode, count) == (fake.LK_NBLCK, 1)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    fake = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(sys, "platform", "win32")
    return fake


def check(folder):
    first = FolderLock(folder)
    with pytest.raises(BlockingIOError):
        FolderLock(folder)
    first.release()
    first.release()
    second = FolderLock(folder)
    with pytest.raises(BlockingIOError):
        FolderLock(folder)
    second.release()


def test_one_at_a_time(tmp_path):
    check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time_on_windows(tmp_path, windows):
    check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize("system", ["posix", "windows"])
def test_a_file_system_without_locks_is_no_error(system, tmp_path, request, monkeypatch):
    def refuse(*given):
        raise OSError(95, "Operation not supported")

    if system == "windows":
        monkeypatch.setattr(request.getfixturevalue("windows"), "locking", refuse)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    FolderLock(tmp_path)
    FolderLock(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("ended", ["released", "deleted"])
def test_a_forked_child_does_not_keep_a_folder_locked(tmp_path, ended):
    lock = FolderLock(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # lives until the parent says so
        os._exit(0)
    try:
        with pytest.raises(BlockingIOError):  # the child did not release it for its parent
            FolderLock(tmp_path)
        lock.release()
        if ended == "deleted":
            del lock
        again = FolderLock(tmp_path)
        again.release()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_that_releases_its_copy_leaves_the_lock_to_its_parent(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    lock.release()
