"""Code that all other packages use: checks of values, files, memory, progress, state dicts."""
