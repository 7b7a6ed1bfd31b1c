"""The command line starts fast: a command loads what it needs, and every command is found."""

import subprocess
import sys

import pytest

pytest.importorskip("typer")

from gradcore.apps.commands.app import APPS
from gradcore.apps.commands.places import PLACES
from imports import HEAVY, imported
from places import ROOT

MAIN = "from gradcore.apps.cli import main; main()"


@pytest.mark.parametrize("arguments", [["--version"], ["info"], ["info", "--json"]], ids=" ".join)
def test_what_is_not_needed_is_not_imported(arguments):
    found = imported(MAIN, *arguments)
    assert "gradcore.apps.commands" in found
    assert found & HEAVY == set()


@pytest.mark.parametrize("command", ["plot", "predict", "diagnose", "check"])
def test_a_command_loads_no_other_command(command):
    found = imported(MAIN, command, "--help")
    assert "gradcore.apps.bench" not in found
    assert "gradcore.apps.tasks.synthetic" not in found or command == "diagnose"


def test_every_command_is_in_the_file_that_the_table_names():
    """A command without a line in PLACES, or with a wrong one, would not be found."""
    script = """
import sys
from importlib import import_module
from gradcore.apps.commands.app import APPS
from typer.main import get_command_from_info
import_module(f"gradcore.apps.commands.{sys.argv[1]}")
for group, app in APPS.items():
    for info in app.registered_commands:
        made = get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)
        print(group, made.name)
"""
    assert APPS.keys() == PLACES.keys()
    named = {(group, name): file for group, names in PLACES.items() for name, file in names.items()}
    folder = ROOT / "src/gradcore/apps/commands"
    for file in (path.stem for path in folder.glob("*.py")):
        done = subprocess.run(
            [sys.executable, "-c", script, file], capture_output=True, text=True, check=True
        )
        found = {tuple(line.split()) for line in done.stdout.splitlines()}
        assert found >= {place for place, home in named.items() if home == file}, file
        assert found <= named.keys(), file
