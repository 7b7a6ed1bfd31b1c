"""Inputs through pipes: nothing is lost to a look at the first bytes, and no end is awaited."""

import gzip
import os
import subprocess
import sys
import threading

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
