"""Serves an engine until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.environment import model_folders
from sigmafield.serve.comfyui.folders import Directories, make_directories
from sigmafield.serve.comfyui.prompt_runs import Prompts
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.app import make_app, requests_of, uploads_in
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.remote import RemoteDevice, remote_devices
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows

CONNECTIONS = logging.getLogger("sigmafield.serve.http")
"""What goes wrong below the routes; bytes that are not HTTP are answered with 400, and leave no trace in the log."""
CONNECTIONS.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

LINGERING = 1.0
"""Seconds for which the rest of a refused body is read, so that its sender reads the answer."""

LAST_ANSWERS = 5.0
"""Seconds that answers which are being sent have at the end."""


def serve(
    folder: Path,
    engine: EngineSettings,
    http: HttpSettings,
    listening: Callable[[str], None],
    cluster: str | None = None,
    comfyui: ComfyUISettings | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; the states of running jobs are saved, and they go on at the next start.

    Args:
        folder: Where jobs, outputs and uploads are kept.
        engine: What jobs run on.
        http: Where to listen, and whom to answer.
        listening: Called with the server's address when it takes requests.
        cluster: Address of the Ray cluster whose devices run the jobs, see `cluster.joined`; None runs them here.
        comfyui: How ComfyUI's protocol is served; None does not serve it.

    Raises:
        ValueError: Another server uses the folder, a model cannot be loaded, or ComfyUI's protocol should be served
            from a cluster.
        ImportError: Ray is not installed.
        OSError: The address cannot be listened at, or no cluster answers.
    """
    if cluster is not None and comfyui is not None:
        raise ValueError(
            "ComfyUI's protocol runs prompts on this machine, where the files that they save are numbered and shown, "
            "and where results are kept for the next prompt: leave --ray out, or leave --comfyui out and post "
            "workflows to /v1/jobs, which run on the cluster"
        )
    away = nullcontext([]) if cluster is None else remote_devices(cluster, engine, workflows_of(folder, http))
    with away as devices:  # before signals are handled: Ray sets a handler of its own
        made = make_engine(folder, engine, http, devices, comfyui)
        asyncio.run(_serve(folder, http, made, listening, comfyui))


async def _serve(
    folder: Path, http: HttpSettings, made: Engine, listening: Callable[[str], None], comfyui: ComfyUISettings | None
) -> None:
    stop = asyncio.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(kind, stop.set)
    try:
        runner = runner_of(make_app(made, http, folder, comfyui), http)
        await runner.setup()
        try:
            site = web.TCPSite(runner, http.host, http.port, ssl_context=http.tls())
            await site.start()  # before models are loaded: an address in use is said at once
            if await started(made, stop):
                listening(address_of(runner, http))
                await stop.wait()
        finally:
            await runner.cleanup()
    finally:
        await asyncio.to_thread(made.stop)


async def started(engine: Engine, stop: asyncio.Event) -> bool:
    """Start an engine; False if it is to stop meanwhile: then a model that is being loaded is not waited for.

    Raises:
        Exception: What `Engine.start` raises.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    errors: list[BaseException] = []

    def start() -> None:
        try:
            engine.start()
        except BaseException as error:
            errors.append(error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=start, name="start", daemon=True).start()  # the process does not wait for this thread
    ends = [asyncio.create_task(each.wait()) for each in (done, stop)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    if errors:
        raise errors[0]
    return done.is_set()


def workflows_of(folder: Path, http: HttpSettings, comfyui: ComfyUISettings | None = None) -> Workflows:
    """What workflows find: models in the folder of models, in ComfyUI's layout, and uploads as input images."""
    prompts = (
        None if comfyui is None else prompts_of(comfyui, make_directories(comfyui.files, folder, http.model_folder))
    )
    models = model_folders(http.model_folder) if http.model_folder is not None else {}
    return Workflows(Folders(models, input=uploads_in(folder)), prompts=prompts, limits=http.limits)


def prompts_of(settings: ComfyUISettings, directories: Directories) -> Prompts:
    """The prompts of a server, of which none runs yet."""

    def folders(owner: str) -> Folders:
        return directories.of(owner).folders

    return Prompts(
        folders, settings.cache, settings.preview_method, settings.preview_size, not settings.disable_metadata
    )


def make_engine(
    folder: Path,
    engine: EngineSettings,
    http: HttpSettings,
    devices: Sequence[RemoteDevice] = (),
    comfyui: ComfyUISettings | None = None,
) -> Engine:
    """The engine of a server, which is not started yet; the recipes in its images name files as clients do.

    Args:
        folder: Where jobs, outputs and uploads are kept.
        engine: What jobs run on.
        http: Where models are.
        devices: Those of a cluster; none are devices here.
        comfyui: How ComfyUI's protocol is served; None does not serve it.

    Raises:
        ValueError: Another server uses the folder.
    """
    workflows = workflows_of(folder, http, comfyui)
    return Engine(folder, engine, workflows, requests_of(engine.models, http, folder).public.shown, devices)


def runner_of(app: web.Application, http: HttpSettings) -> web.AppRunner:
    """What runs an application: connections that send nothing, or headers too slowly, are closed."""
    return web.AppRunner(
        app, keepalive_timeout=http.request_seconds, lingering_time=LINGERING, shutdown_timeout=LAST_ANSWERS,
        access_log=None, logger=CONNECTIONS,
    )  # fmt: skip


def address_of(runner: web.AppRunner, http: HttpSettings) -> str:
    """Where a server listens, with the port that it got."""
    host = f"[{http.host}]" if ":" in http.host else http.host
    return f"{'http' if http.tls_certfile is None else 'https'}://{host}:{runner.addresses[0][1]}"
