"""What a file of weights is, from its header alone: `inspect` one file, or `folder` for a folder of them."""
