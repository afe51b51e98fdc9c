"""The lab measures what a sampler is by running it: coefficients, order of convergence, stability, sources.

`table` and `amplification` need no model, `convergence` runs exact ones; `plot` draws their results (needs matplotlib).
"""

from sigmafield.citations import cite
from sigmafield.lab.coefficients import Row, one_step, render, table
from sigmafield.lab.convergence import Convergence, convergence
from sigmafield.lab.stability import amplification, real_interval

__all__ = ["Convergence", "Row", "amplification", "cite", "convergence", "one_step", "real_interval", "render", "table"]
