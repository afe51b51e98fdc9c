"""Runs: the sampling loop, and runs that change the latent between its steps."""
