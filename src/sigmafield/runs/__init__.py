"""Runs: the loop, and what edits it between its steps."""
