"""The lab: what a method is, found by running it: coefficients, order of convergence, stability, sources.

`table` and `stability` need no model, `order` runs exact ones; `plot` draws their results (needs matplotlib).
"""

from sigmafield.lab.order import Convergence, convergence
from sigmafield.lab.papers import cite
from sigmafield.lab.stability import amplification, real_interval
from sigmafield.lab.table import Row, one_step, render, table

__all__ = ["Convergence", "Row", "amplification", "cite", "convergence", "one_step", "real_interval", "render", "table"]
