"""Serves an engine until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.environment import model_folders
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.app import make_app, requests_of, uploads_in
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows

LINGERING = 1.0
"""Seconds for which the rest of a refused body is read, so that its sender reads the answer."""

LAST_ANSWERS = 5.0
"""Seconds that answers which are being sent have at the end."""


def serve(folder: Path, engine: EngineSettings, http: HttpSettings, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; the states of running jobs are saved, and they go on at the next start.

    Args:
        folder: Where jobs, outputs and uploads are kept.
        engine: What jobs run on.
        http: Where to listen, and whom to answer.
        listening: Called with the server's address when it takes requests.

    Raises:
        ValueError: Another server uses the folder, or a model cannot be loaded.
        OSError: The address cannot be listened at.
    """
    asyncio.run(_serve(folder, engine, http, listening))


async def _serve(folder: Path, engine: EngineSettings, http: HttpSettings, listening: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(kind, stop.set)
    made = make_engine(folder, engine, http)
    try:
        runner = runner_of(make_app(made, http, folder), http)
        await runner.setup()
        try:
            site = web.TCPSite(runner, http.host, http.port)
            await site.start()  # before models are loaded: an address in use is said at once
            await asyncio.to_thread(made.start)
            listening(address_of(runner, http))
            await stop.wait()
        finally:
            await runner.cleanup()
    finally:
        await asyncio.to_thread(made.stop)


def make_engine(folder: Path, engine: EngineSettings, http: HttpSettings) -> Engine:
    """The engine of a server, which is not started yet.

    Its workflows find models in the folder of models, in ComfyUI's layout, and uploads as input images; the recipes in
    its images name files as clients do. Arguments and errors as for `serve`.
    """
    models = model_folders(http.model_folder) if http.model_folder is not None else {}
    workflows = Workflows(Folders(models, input=uploads_in(folder)))
    return Engine(folder, engine, workflows, requests_of(engine.models, http, folder).shown)


def runner_of(app: web.Application, http: HttpSettings) -> web.AppRunner:
    """What runs an application: connections that send nothing, or headers too slowly, are closed."""
    return web.AppRunner(
        app, keepalive_timeout=http.request_seconds, lingering_time=LINGERING, shutdown_timeout=LAST_ANSWERS,
        access_log=None,
    )  # fmt: skip


def address_of(runner: web.AppRunner, http: HttpSettings) -> str:
    """Where a server listens, with the port that it got."""
    host = f"[{http.host}]" if ":" in http.host else http.host
    return f"http://{host}:{runner.addresses[0][1]}"
