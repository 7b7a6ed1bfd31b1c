"""The training loop: updates, scores, measurements during training, runs that can be resumed."""
