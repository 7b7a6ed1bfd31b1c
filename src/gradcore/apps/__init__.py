"""What the command line runs. Nothing of the library imports it."""
