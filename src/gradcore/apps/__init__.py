"""Applications that the command line runs; no other part of the library imports them."""
