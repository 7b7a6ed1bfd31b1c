"""The one writer of outputs: what it replaces, what it writes through, and what it refuses."""

import os
import re
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

import gradcore as gd
from gradcore._base.output import (
    check_output,
    same_file,
    write_bytes,
    write_figure,
    write_output,
    write_text,
)
from places import ROOT

posix = pytest.mark.skipif(sys.platform == "win32", reason="has no devices in the file system")


@pytest.fixture
def net():
    made = gd.Stack(gd.RNN(2, 3))
    return made, made.init(seed=0)


def test_a_file_is_made_and_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    assert check_output(path) is False
    write_text(path, "one\n")
    assert check_output(path) is True

    def half(made):
        made.write_text("half")
        raise OSError(28, "No space left on device", str(made))

    with pytest.raises(OSError, match="No space left") as caught:
        write_output(path, half)
    assert caught.value.filename == str(path)
    assert path.read_text() == "one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("new")
    for name, kept in (("link", "real"), ("dangling", "new")):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / kept).read_text() == "text"
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(gd.ArgumentError, match="links lead in a circle"):
        check_output(tmp_path / "x")


@posix
@pytest.mark.parametrize("own", [False, True])
def test_a_device_stays_a_device(own, tmp_path, net):
    path = tmp_path / "null" if own else "/dev/null"
    if own:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            path.open("w").close()
        except OSError:
            pytest.skip("only an administrator may make devices")
    assert check_output(path) is False
    write_text(path, "text")
    gd.save(path, *net)
    assert stat.S_ISCHR(os.stat(path).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_an_error_with_its_name(net):
    with pytest.raises(OSError, match="No space left") as caught:
        write_text("/dev/full", "text")
    assert caught.value.filename == "/dev/full"
    with pytest.raises(gd.CheckpointError, match=r"cannot write /dev/full: No space left"):
        gd.save("/dev/full", *net)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@posix
def test_a_named_pipe_is_written_through(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert check_output(path) is False  # and does not wait for a reader
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_bytes(path, b"x" * 200_000)
    reader.join(timeout=10)
    assert read == [b"x" * 200_000]
    assert stat.S_ISFIFO(os.stat(path).st_mode)


@posix
def test_an_open_file_of_the_process_goes_on_where_it_is(tmp_path):
    code = (
        "from gradcore._base.output import write_text\n"
        "print('before')\nwrite_text('/dev/stdout', 'written\\n')\nprint('after')\n"
    )
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\nwritten\nafter\n"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout == b"before\nwritten\nafter\n"


@posix
def test_what_cannot_be_an_output_is_refused_before_the_work(tmp_path, net):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket"))
    for name, told in (
        ("folder", "it is a folder"),
        ("socket", "it is a socket"),
        ("nowhere/a", "is not a folder. Create it first"),
        ("file/a", "is not a folder|Not a directory"),
        ("a" * 256, "name too long"),
        ("a\0b", "no zero bytes"),
    ):
        path = f"{tmp_path}/{name}"
        with pytest.raises(gd.ArgumentError, match=f"(?i){told}"):
            check_output(path)
        with pytest.raises(gd.GradcoreError, match=r"cannot write|path must be"):
            gd.save(path, *net)
    server.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "socket"]


@pytest.mark.parametrize("length", [190, 230, 255])
def test_a_name_may_be_as_long_as_the_system_allows(length, tmp_path):
    path = tmp_path / ("a" * length)
    check_output(path)
    write_text(path, "text")
    assert path.read_text() == "text"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_protected_file_or_folder_is_refused_before_the_work(tmp_path):
    path = tmp_path / "a"
    path.write_text("text")
    path.chmod(0o444)
    with pytest.raises(gd.ArgumentError, match="write-protected"):
        check_output(path)
    tmp_path.chmod(0o555)
    with pytest.raises(gd.ArgumentError, match=r"(?i)permission denied"):
        check_output(tmp_path / "b")
    tmp_path.chmod(0o755)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a place that is read-only")
def test_a_read_only_place_is_refused_before_the_work():
    with pytest.raises(gd.ArgumentError, match="cannot write /proc/out"):
        check_output("/proc/out")


def test_an_input_is_never_replaced(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n")
    (tmp_path / "link").symlink_to(path)
    os.link(path, tmp_path / "hard")
    for name in ("t.csv", "link", "hard", "../" + tmp_path.name + "/t.csv"):
        with pytest.raises(gd.ArgumentError, match="is one of the files to read"):
            check_output(tmp_path / name, [path])
    assert same_file(tmp_path / "new", tmp_path / "." / "new")
    assert not same_file(tmp_path / "new", path)


def test_a_picture_goes_where_other_outputs_go(tmp_path):
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(1, 1))
    write_figure(tmp_path / "a.svg", figure, dpi=50)
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    write_figure(tmp_path / "bare", figure, dpi=50)
    assert (tmp_path / "bare").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(gd.ArgumentError, match=r"'txt' is not supported \(supported formats: "):
        write_figure(tmp_path / "a.txt", figure, dpi=50)
    if os.path.exists("/dev/null"):
        write_figure("/dev/null", figure, dpi=50)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_there_is_no_second_way_to_write_an_output():
    """Calls that make files are in the writer, or make what it then puts in its place."""
    ways = re.compile(
        r"\.savefig\(|\.write_text\(|\.write_bytes\(|os\.replace\(|replace_file\(|"
        r"\.open\([^)]*\"w[b]?\"|(?<![._\w])open\([^)]*\"w[b]?\"|save_file\("
    )
    allowed = {
        "_base/output.py",
        "_base/files.py",
        "_net/compiler.py",  # what the compiler reads, in a folder of its own, and what it makes
        "_net/io.py",
        "apps/tasks/synthetic/rescue.py",
        "apps/tasks/table/predict.py",
        "apps/tasks/dna/annotation.py",
        "diagnosis/_page.py",  # a picture in memory
    }
    package = ROOT / "src" / "gradcore"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        found = ways.findall(path.read_text())
        assert name in allowed or not found, f"{name}: {found}; use gradcore._base.output"
    for name in allowed - {
        *("_base/output.py", "_base/files.py", "_net/compiler.py", "diagnosis/_page.py")
    }:
        assert "write_output(" in (package / name).read_text(), name


def test_save_and_load_with_numpy_intact(tmp_path, net):
    gd.save(tmp_path / "n", *net)
    assert np.array_equal(gd.load(tmp_path / "n").params.flat, net[1].flat)
