"""The commands of `gradcore`, one topic per file; importing a file adds its commands."""

from . import bench as bench
from . import brackets as brackets
from . import info as info
from . import plot as plot
from .app import app as app
