"""Jobs of a server from Python: `Client`, and `AsyncClient` for programs with an event loop."""

from sigmafield.client.asynchronous import AsyncClient, AsyncJob
from sigmafield.client.errors import Denied, JobFailed, NotThere, Refused, Unavailable
from sigmafield.client.synchronous import Client, Job
from sigmafield.client.values import Event, JobInfo
from sigmafield.recipes.jobs import Output

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Denied",
    "Event",
    "Job",
    "JobFailed",
    "JobInfo",
    "NotThere",
    "Output",
    "Refused",
    "Unavailable",
]
