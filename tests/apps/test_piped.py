"""Inputs through pipes: nothing is lost to a look at the first bytes, and no end is awaited."""

import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks import piped
from gradcore.apps.tasks.dna import records
from gradcore.apps.tasks.numpyfile import read_arrays
from gradcore.apps.tasks.table.read import names, read

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes")

ROWS = 60_000
TABLE = "t,x\n" + "".join(f"{t},{t % 97}.5\n" for t in range(ROWS))


@pytest.fixture
def pipe(tmp_path):
    """Makes a named pipe that gives some bytes once."""
    writers = []

    def made(content, name="pipe"):
        path = tmp_path / name
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(content,)))
        writers[-1].start()
        return path

    yield made
    for writer in writers:
        writer.join(timeout=10)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_table_through_a_pipe_is_whole(pack, pipe):
    table = read([pipe(pack(TABLE.encode()))])
    assert np.array_equal(table.columns["t"].values, np.arange(ROWS))


def test_names_and_rows_may_be_asked_of_one_pipe(pipe):
    path = pipe(TABLE.encode())
    with piped.kept():
        assert names([path])[0] == ["t", "x"]
        assert len(read([path]).columns["x"].values) == ROWS


def test_arrays_and_genomes_through_pipes(pipe, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(9.0))
    assert np.array_equal(read_arrays(pipe((tmp_path / "a.npz").read_bytes()))["x"], np.arange(9))
    fasta = ">one\n" + "ACGTTGCA" * 20_000 + "\n"
    (record,) = records.read_sequences(pipe(fasta.encode(), "fasta"))
    assert len(record) == 160_000


def test_faults_have_the_name_of_the_pipe(pipe):
    path = pipe(b"t,x\n1,2\n3\n")
    with pytest.raises(gd.ArgumentError, match="pipe:3"):
        read([path])


def test_copies_are_removed(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read([pipe(TABLE.encode())])
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_an_endless_pipe_or_device_is_refused(pipe, monkeypatch):
    monkeypatch.setattr(piped, "LARGEST", 1_000)
    with pytest.raises(gd.ArgumentError, match="pipe that gave more than 1,000 bytes"):
        read([pipe(b"a,b\n" * 1_000)])
    for name in ("/dev/zero", "/dev/null"):
        with pytest.raises(gd.ArgumentError, match=f"{name} is a device and not a file"):
            read([name])


@pytest.mark.parametrize("way", ["/dev/stdin", "substitution"])
def test_the_command_reads_all_lines_of_a_pipe(way, tmp_path):
    pytest.importorskip("typer")
    lines = "".join(f"{t},{t % 97}.5,{t % 7}\n" for t in range(ROWS))
    (tmp_path / "v.csv").write_text(f"t,x,u\n{lines}")
    command = f"{sys.executable} -m gradcore.apps.cli train csv"
    more = "--target x --order t --updates 1 --hidden 2 --threads 1 --json j.json --quiet"
    line = (
        f"cat v.csv | {command} /dev/stdin {more}"
        if way == "/dev/stdin"
        else f"{command} <(cat v.csv) {more}"
    )
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'"rows": {ROWS},' in (tmp_path / "j.json").read_text()


def test_a_pipe_that_nobody_writes_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(piped, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "idle")
    with pytest.raises(gd.ArgumentError, match="idle is a pipe that nothing is written to"):
        read([tmp_path / "idle"])


def test_a_writer_that_takes_its_time_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(piped, "WRITER_SECONDS", 0.1)
    line = "(sleep 0.6; echo t,x; sleep 0.6; echo 1,2)"
    code = (
        "import sys; from gradcore.apps.tasks import piped; piped.WRITER_SECONDS = 0.1;"
        "from gradcore.apps.tasks.table.read import read;"
        "print(read([sys.argv[1]]).columns['x'].values)"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" <{line}'], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[2.]\n", "")


def bomb(path, size, members=1):
    """A gzip file of equal lines that unpacks to about size bytes."""
    part = gzip.compress(b"t,x\n" + b"1,2\n" * (size // members // 4))
    path.write_bytes(part * members)
    return path


@pytest.mark.parametrize("members", [1, 40])
def test_a_table_that_unpacks_to_too_much_is_refused_at_once(members, tmp_path):
    path = bomb(tmp_path / "t.csv.gz", 10**9, members)
    start = time.monotonic()
    with pytest.raises(gd.ArgumentError, match="unpacks to more than 100,000,000, which is impl"):
        read([path])
    assert time.monotonic() - start < 20


def test_a_dense_table_of_usual_size_is_read(tmp_path):
    assert len(read([bomb(tmp_path / "t.csv.gz", 400_000)]).columns["x"].values) == 100_000


def test_source_code_of_any_size_or_kind_has_an_end(tmp_path, pipe, monkeypatch):
    pytest.importorskip("pygments")
    from gradcore.apps.tasks.brackets import sources

    with (tmp_path / "large.py").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(gd.ArgumentError, match="more than 50,000,000 bytes"):
        sources.read_text(tmp_path / "large.py")
    with pytest.raises(gd.ArgumentError, match="/dev/zero is a device"):
        sources.read_text(Path("/dev/zero"))
    monkeypatch.setattr(piped, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "idle")
    with pytest.raises(gd.ArgumentError, match="idle is a pipe that nothing"):
        sources.read_text(tmp_path / "idle")
    assert sources.read_text(pipe(b"a = (1,\n", "code")) == "a = (1,\n"


def test_check_names_what_has_no_end_and_goes_on(tmp_path):
    pytest.importorskip("typer")
    (tmp_path / "a.py").write_text("def f(:\n    return (1\n" * 3)
    command = [sys.executable, "-m", "gradcore.apps.cli", "check", "/dev/zero", "a.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "gradcore: /dev/zero is a device and not a file. Name a file.\n"
    assert done.stdout.startswith("a.py:")
