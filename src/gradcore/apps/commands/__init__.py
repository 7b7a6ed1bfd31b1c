"""The commands of `gradcore`, one topic per file; places.py says which file has which command."""

from .app import app as app
