"""The command line: `sigmafield sample "a red heart"`. Commands import the engine only when they run."""

from sigmafield.cli.app import app, main

__all__ = ["app", "main"]
