"""`sigmafield lab`: experiments on samplers, each with a table, figures and a report.

Start with:  sigmafield lab solvers --quick  (less than a minute, and no model is needed). A command that was stopped
goes on where it was when it is given again.
"""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from sigmafield.cli.prose import description_in

lab = App(name="lab", help_format="plaintext")

QUESTIONS = {
    "solvers": "What is the integrator's own error, and how fast does it fall with more calls of the model?",
    "schedules": "What does the spacing of σ do, and in which intervals does the error of a run arise?",
    "noise": "What does noise buy: how do diversity and fidelity change with eta and s_noise?",
    "guidance": "Where does guidance blow up, and which mod holds the norms?",
    "adaptive": "Does adaptivity pay: is the error at equal cost smaller than that of fixed steps?",
    "marginals": "Do particles follow the Fokker–Planck marginals: is their distribution at every σ the exact one?",
    "transport": "How far is the path of a sampler from optimal transport between its two ends?",
    "inpaint": "What does the projection of a mask cost: in the square, outside of it, and at the border?",
}
"""The experiments in the order of the help, with their questions."""

for order, (name, question) in enumerate(QUESTIONS.items()):
    lab.command(f"sigmafield.cli.lab_studies:{name}", name=name, help=question, sort_key=order)

OTHERS = {"sweep": "lab_sweep", "pair": "lab_pair", "compare": "lab_compare", "replay": "lab_replay"}
"""The further commands, and the files that they are in."""

for order, (name, file) in enumerate(OTHERS.items(), len(QUESTIONS)):
    about = description_in(Path(__file__).with_name(f"{file}.py"), name)
    lab.command(f"sigmafield.cli.{file}:{name}", name=name, help=about, sort_key=order)
