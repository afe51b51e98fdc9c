"""`sigmafield lab`: experiments on samplers, each with a table, figures and a report.

Start with:  sigmafield lab solvers --quick  (less than a minute, and no model is needed). A command that was stopped
goes on where it was when it is given again.
"""

from __future__ import annotations

from cyclopts import App

lab = App(name="lab", help_format="plaintext")

STUDIES = {
    "solvers": "What is the integrator's own error, and how fast does it fall with more calls of the model?",
}
"""The experiments in the order of the help, with their questions."""

for order, (name, question) in enumerate(STUDIES.items()):
    lab.command(f"sigmafield.cli.lab_studies:{name}", name=name, help=question, sort_key=order)
