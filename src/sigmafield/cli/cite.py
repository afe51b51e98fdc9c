"""`sigmafield cite`: BibTeX of the papers."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from sigmafield import citations
from sigmafield.cli.errors import user_errors


def cite(
    *names: Annotated[str, Parameter(help="Samplers, schedules and mods; none: sigmafield itself.")],
    all: Annotated[bool, Parameter(negative="", help="The whole bibliography.")] = False,
) -> None:
    """Print BibTeX for the papers that samplers, schedules and guidance mods are from."""
    with user_errors():
        entries = citations.bibliography().values() if all else citations.cite(*names)
    print("\n\n".join(entry.text for entry in entries))
