"""Stability in the sense of numerical analysis."""

from . import von_neumann as von_neumann
