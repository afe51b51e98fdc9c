"""Work on many machines, with Ray."""
