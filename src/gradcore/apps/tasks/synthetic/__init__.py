"""Synthetic tasks, for which the best score without memory is known."""
