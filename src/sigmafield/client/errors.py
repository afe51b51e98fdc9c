"""What a server's answers raise: the types that the same mistakes have without a server."""

from __future__ import annotations


class Refused(ValueError):
    """The server refuses a request.

    Args:
        message: Why, in the server's words.
        field: The entry of the request that is wrong; None where it is not one.
        status: HTTP's status.
    """

    def __init__(self, message: str, field: str | None = None, status: int = 400):
        super().__init__(message)
        self.field, self.status = field, status


class NotThere(Refused, LookupError):
    """The server has no such job, output, upload or route."""


class Denied(PermissionError):
    """The server needs a token, or another one, or does not answer to this name."""


class Unavailable(ConnectionError):
    """The server cannot be reached, has failed at a request, or was busy for too long."""


class JobFailed(ValueError):
    """A job has failed or was cancelled.

    Args:
        message: Its error.
        job: Its id.
    """

    def __init__(self, message: str, job: str):
        super().__init__(message)
        self.job = job


def refusal(status: int, message: str, field: str | None) -> Exception:
    """The exception of an answer with an error."""
    if status in (401, 403):
        return Denied(message)
    if status >= 500 or status == 429:
        return Unavailable(message)
    return (NotThere if status == 404 else Refused)(message, field, status)
