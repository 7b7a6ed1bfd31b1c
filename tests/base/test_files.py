"""Files that are replaced at once, and folders that one process holds, by either system's locks."""

import os
import sys
import threading
import types

import pytest

from gradcore._base import files
from gradcore._base.files import LOCK_FILE, FolderLock, replace_file

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
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, where another test imports it
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
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
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, where another test imports it
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
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


# ---- permissions


@pytest.fixture
def mask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_file_has_the_permissions_of_the_process(tmp_path, mask):
    for value in (0o027, 0o077, 0o002, 0):
        os.umask(value)
        replace_file(tmp_path / "a", lambda path: path.write_text("a"))
        plain = tmp_path / f"plain{value}"
        plain.touch()
        assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_the_mask_is_never_set(tmp_path, mask, monkeypatch):
    """Set and read back by four threads, it was left at 0."""
    if files._told_umask() is None:
        pytest.skip("this system does not tell the mask")
    monkeypatch.setattr(os, "umask", lambda value: pytest.fail("umask was set"))

    def write(name):
        for _ in range(20):
            replace_file(tmp_path / name, lambda path: path.write_text(name))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert os.umask(0o027) == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("text", [None, "Name:\tpython\n", "Umask:\tabc\n"])
def test_a_system_that_does_not_tell_the_mask(text, tmp_path, monkeypatch):
    def read(path, **how):
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(files.Path, "read_text", read)
    assert files._told_umask() is None
    monkeypatch.setattr(files, "_UMASK_AT_IMPORT", 0o077)
    replace_file(tmp_path / "a", lambda path: path.write_bytes(b"a"))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_the_mask_is_read_by_setting_it_once_at_import(mask):
    assert files._umask_by_setting() == 0o027
    assert files._umask_by_setting() == 0o027
