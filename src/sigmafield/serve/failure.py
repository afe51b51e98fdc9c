"""What is said of a job that has failed."""

from __future__ import annotations

import logging

LOG = logging.getLogger("sigmafield.serve")
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError, FloatingPointError, ImportError)
"""What the parts of the engine raise with a message for users; others are named and logged with their traceback."""


def failure_text(id: str, error: BaseException) -> str:
    """Why a job has failed, in one line for clients; what they may not see, or is not expected, is logged."""
    message = " ".join(str(error).split()) or type(error).__name__
    for each in (error, error.__cause__):
        if isinstance(each, OSError) and each.errno is not None:  # its text has a path of the server
            LOG.error("job %s failed: %s", id, error)
            said = f"the server cannot read or write a file of this job: {each.strerror}"
            message = message.replace(" ".join(str(each).split()), said)
    if not isinstance(error, EXPECTED):
        LOG.error("job %s failed", id, exc_info=error)
        return f"{type(error).__name__}: {message}"
    return message
