"""The notebook of the lab runs from its first cell to its last, and its outputs are not stored."""

import json
import re
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "lab.ipynb"


def test_the_notebook_runs(capsys):
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    said = capsys.readouterr().out
    found = re.search(r"euler has (\S+) \[(\S+), (\S+)\] times the error of dpmpp_2m", said)
    assert found and float(found[2]) > 1
    assert "Observed orders" in said and "16 steps: the spread is" in said
