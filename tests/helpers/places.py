"""Folders that tests read: the project's root, and the data folder beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
# Real genomes, speech and other data, if they have been downloaded; tests that need them are
# skipped otherwise.
SHARED_DATA = ROOT.parent / "shared" / "data"
