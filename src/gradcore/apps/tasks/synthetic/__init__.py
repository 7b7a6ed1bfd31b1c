"""Tasks made by a formula, whose best answer without memory is known."""
