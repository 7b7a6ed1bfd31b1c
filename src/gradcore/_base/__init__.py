"""What every other shelf stands on: checks, files, memory, reports, state dicts."""
