"""Nets: layers, parameters, states, files of them, and what the core is told of them."""
