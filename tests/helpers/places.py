"""Folders that tests read: the project's root, and data that lie beside it and not inside."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
# Real genomes, speech and other data, where they have been fetched; tests that need them skip.
SHARED_DATA = ROOT.parent / "shared" / "data"
