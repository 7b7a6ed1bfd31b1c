"""Nets: layers, parameters, states, checkpoints, checks of arrays, descriptions for the core."""
