"""`python -m sigmafield` is the command line."""

from sigmafield.cli import main

main()
