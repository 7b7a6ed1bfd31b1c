"""What reaches terminals, pipes and other encodings: no controls, no lost letters."""

import os
import subprocess
import sys
import time

import pytest

from gradcore.apps.text import literal, plain

pytest.importorskip("typer")

COMMAND = [sys.executable, "-m", "gradcore.apps.cli"]
ESCAPE = "\x1b[31m\x9b2J\x07"


def run(*arguments, folder, **options):
    given = {"capture_output": True, "timeout": 120, **options}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, **given)


def table(folder, name="t.csv", column="y"):
    rows = "".join(f"{t},{t % 7},{(t % 7) * 2 + 1}\n" for t in range(200))
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(f"t,x,{column}\n{rows}".encode())


USUAL = ("--order", "t", "--updates", "2", "--hidden", "3", "--threads", "1")


@pytest.mark.parametrize("text", [ESCAPE, "a\u202eb", "\udcff", "\r", "\x00", "\x7f"])
def test_no_control_character_is_left(text):
    for safe in (plain(text), literal(text)):
        assert safe.encode().decode().isprintable()
    assert plain("a\tb\nc \u00e9 \u4e2d") == "a\tb\nc \u00e9 \u4e2d"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "csv", "--help"], ["info"], ["info", "--json"], ["--version"], ["no"]],
)
def test_a_reader_that_has_left_is_no_fault(arguments, tmp_path):
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": write, "stderr": write} if arguments == ["no"] else {"stdout": write}
    done = run(
        *arguments, folder=tmp_path, capture_output=False, **{"stderr": subprocess.PIPE, **streams}
    )
    os.close(write)
    assert done.returncode == 141
    assert not done.stderr


def test_a_reader_that_leaves_during_a_training_ends_it_quietly(tmp_path):
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{' '.join(COMMAND)} train adding --length 5 --hidden 2 --every 5 "
            "--updates 4000 --threads 1 | head -1; exit ${PIPESTATUS[0]}",
        ],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert (done.returncode, done.stdout.count("\n")) == (141, 1)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["--version"],
        ["--help"],
        ["train", "adding", "--length", "5", "--updates", "5", "--quiet"],
        ["predict", "table.safetensors", "t.csv"],
    ],
)
def test_an_output_that_cannot_be_written_is_an_error(arguments, unbuffered, tmp_path, monkeypatch):
    if arguments[0] == "predict":
        table(tmp_path)
        assert (
            run("train", "csv", "t.csv", "--target", "y", *USUAL, folder=tmp_path).returncode == 0
        )
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        done = run(
            *arguments, folder=tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr == b"gradcore: cannot write the output: No space left on device\n"


def test_a_closed_output_is_no_fault(tmp_path):
    line = f"{' '.join(COMMAND)} info >&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("option", [f"--{ESCAPE}", ESCAPE])
def test_arguments_do_not_reach_the_terminal_raw(option, tmp_path):
    for arguments in ([option], ["train", "csv", f"{option}.csv", "--target", "y"]):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert b"\x1b" not in done.stderr
        assert b"\xc2\x9b" not in done.stderr
        assert b"\\x1b[31m" in done.stderr


def test_names_of_columns_and_files_do_not_reach_the_terminal_raw(tmp_path):
    column = f"y{ESCAPE.replace(chr(7), '')}"
    table(tmp_path, f"{ESCAPE}.csv", column)
    done = run("train", "csv", f"{ESCAPE}.csv", "--target", column, *USUAL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"target: y\\x1b[31m" in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    # A file keeps what the table has, and a picture is drawn of it.
    assert b"\\u001b" in (tmp_path / "table.safetensors").read_bytes()


def test_predictions_on_a_terminal_have_no_controls_and_in_a_pipe_are_as_they_were(tmp_path):
    pty = pytest.importorskip("pty")
    rows = "".join(f"{ESCAPE}{t // 20},{t},{t % 5},{t % 7}\n" for t in range(240))
    (tmp_path / "t.csv").write_text(f"s,t,x,y\n{rows}")
    options = ("--sequence", "s", *USUAL)
    done = run(
        "train", "csv", "t.csv", "--target", "y", "--features", "x", *options, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    piped = run("predict", "table.safetensors", "t.csv", folder=tmp_path)
    assert ESCAPE.encode() in piped.stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "predict", "table.safetensors", "t.csv"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    while process.poll() is None or not shown:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
        time.sleep(0.001)
    os.close(ours)
    process.communicate()
    assert b"\\x1b[31m" in shown
    assert b"\x1b" not in shown


@pytest.mark.parametrize("column", ["C:\\x$\\q$", "$", "$a$ \\$b$", "a\nb", "_y", "\u4e2d"])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_names_are_drawn_letter_by_letter(column, classes, tmp_path):
    pytest.importorskip("matplotlib")
    rows = "".join(
        f"{t},{t % 7},{'$x^{' if classes and t % 7 > 3 else t % 7}\n" for t in range(200)
    )
    quoted = '"' + column + '"'
    (tmp_path / "t.csv").write_text(f"t,x,{quoted}\n{rows}")
    target = "--target=" + column
    more = ("--features", "x", "--json", "j.json", "--classify" if classes else "--regress")
    if classes:
        more = (*more, "--text", quoted)
    done = run("train", "csv", "t.csv", target, *more, *USUAL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.png").stat().st_size > 10_000


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names must be Unicode there")
def test_names_of_files_need_not_be_utf_8(tmp_path):
    name = os.fsdecode(b"t\xff\xe9.csv")
    table(tmp_path, name)
    net, out = os.fsdecode(b"n\xff.safetensors"), os.fsdecode(b"p\xff.csv")
    steps = (
        (
            "train",
            "csv",
            name,
            "--target",
            "y",
            *USUAL,
            "--out",
            net,
            "--run",
            os.fsdecode(b"r\xff"),
        ),
        ("predict", net, name),
        ("predict", net, name, name + "2", "--out", out),
        ("plot", os.fsdecode(b"r\xff")),
        ("check", os.fsdecode(b"c\xff.py")),
    )
    table(tmp_path, name + "2")
    with open(os.fsencode(tmp_path) + b"/c\xff.py", "w") as file:
        file.write("def f(:\n    return (1\n" * 3)
    for arguments in steps:
        done = run(*arguments, folder=tmp_path)
        assert b"Traceback" not in done.stderr, done.stderr
        assert done.returncode == (1 if arguments[0] == "check" else 0), done.stderr
    with open(os.fsencode(tmp_path) + b"/p\xff.csv", "rb") as file:
        assert b"t\xff\xe9.csv," in file.read()


def test_brackets_of_files_whose_names_are_not_utf_8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/s\xff"
    os.mkdir(folder)
    for i in range(8):
        with open(folder + b"/m%d\xe9.py" % i, "w") as file:
            file.write(f"def f{i}(a, b=[{i}]):\n    return (a[0], b)\n" * 30)
    done = run(
        "train",
        "brackets",
        os.fsdecode(b"s\xff"),
        "--characters",
        "3000",
        "--hidden",
        "4",
        "--threads",
        "1",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_an_output_in_ascii_shows_escapes(tmp_path):
    rows = "".join(f"\u00e9{t // 20},{t},{t % 5},{t % 7}\n" for t in range(240))
    (tmp_path / "t.csv").write_text(f"s,t,x,\u4e2d\n{rows}", encoding="utf-8")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run(
        "train",
        "csv",
        "t.csv",
        "--target",
        "\u4e2d",
        "--features",
        "x",
        "--sequence",
        "s",
        *USUAL,
        folder=tmp_path,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert b"target: \\u4e2d" in done.stderr
    done = run("predict", "table.safetensors", "t.csv", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "\u00e90,".encode() in done.stdout  # a table is UTF-8, wherever it goes
