"""The training loop: updates, scores, what is watched, and runs that can be resumed."""
