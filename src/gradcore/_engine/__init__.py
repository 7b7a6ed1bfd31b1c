"""Calls of the core: their plans within a memory budget, their arrays, and their execution."""
