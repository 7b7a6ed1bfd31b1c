"""`train csv --resume` with another table of the same shape, or with columns in other roles."""

import numpy as np
import pytest

pytest.importorskip("typer", reason="needs the command line: install gradcore[cli]")

from typer.testing import CliRunner

from gradcore.apps import commands


def write(path, a, b):
    path.write_text("a,b\n" + "".join(f"{x:.17g},{y:.17g}\n" for x, y in zip(a, b, strict=True)))
    return path


def train(path, folder, target="b", updates=2):
    arguments = ["train", "csv", path, "--target", target, "--hidden", 4, "--run", folder]
    arguments += ["--out", folder.with_suffix(".safetensors"), "--updates", updates]
    if folder.exists():
        arguments.append("--resume")
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments])


A = np.round(np.sin(np.arange(300) / 5), 6)
B = np.round(np.cos(np.arange(300) / 7), 6)
LATE = np.where(np.arange(300) == 299, 0.123, A)


@pytest.mark.parametrize(
    ("a", "b", "target"),
    [
        (-A, B, "b"),
        (2 * A, B, "b"),  # standardised, these are the same bits
        (A, -3 * B, "b"),
        (A, 4 * B, "b"),
        (B, A, "b"),
        (A, B, "a"),
        (LATE, B, "b"),  # a row of the test part
    ],
)
def test_another_table_is_refused(a, b, target, tmp_path):
    done = train(write(tmp_path / "t.csv", A, B), tmp_path / "r")
    assert done.exit_code == 0, done.output
    refused = train(write(tmp_path / "u.csv", a, b), tmp_path / "r", target, updates=4)
    assert refused.exit_code == 2, refused.output
    assert "other settings" in " ".join(refused.output.split())
    again = train(write(tmp_path / "v.csv", A, B), tmp_path / "r", updates=4)
    assert again.exit_code == 0, again.output
