"""Single-file checkpoints in the layouts that models were published in: what a file holds, and in which shape."""
