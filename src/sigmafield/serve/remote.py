"""A device in another process, perhaps on another machine: an actor of a Ray cluster runs the jobs of this engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from threading import Lock
from types import ModuleType
from typing import Any

from sigmafield.cluster.joined import Room, joined
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.figures import BatchFigures, DeviceFigures
from sigmafield.serve.live import Live, Stopped
from sigmafield.serve.recipe_job import start_of
from sigmafield.serve.remote_host import MOST, Handed, Happened, Host, handed_over
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows

FIRST = 300.0
"""Seconds that the first start of a worker may take, models loaded."""


class Lost(Exception):
    """The process that ran a job has died; the job goes on elsewhere from its last state."""


class RemoteDevice:
    """A device of a cluster with the process that has it; where that dies, another one takes its place.

    Args:
        ray: The package, connected to the cluster.
        name: What it is called.
        settings: How models are loaded and calls joined.
        room: What the process takes of the cluster.
        workflows: What workflows find; its folders are those of each machine.
    """

    def __init__(self, ray: ModuleType, name: str, settings: EngineSettings, room: Room, workflows: Workflows):
        self.name, self._ray, self._settings, self._room, self._workflows = name, ray, settings, room, workflows
        self._lock, self._runs = Lock(), 1
        self._figures = DeviceFigures(name, 0, (), BatchFigures(), None)
        self._host, self._starting = self._started()

    def _started(self) -> tuple[Any, Any]:
        """A new process, and the call that answers when it has loaded the models."""
        kind = "cuda" if self._room.gpu else "cpu"
        actor = self._ray.remote(Host).options(max_concurrency=MOST + 4, **self._room.options())
        host = actor.remote(self._settings, kind, self._workflows)
        return host, host.load.remote(self._settings.models)

    def load(self, model: str) -> None:
        """Wait until the process has loaded the models of the settings.

        Raises:
            ValueError: A model is not supported.
            OSError: The process does not start, a file is missing, or it has another version of sigmafield.
        """
        try:
            theirs = self._ray.get(self._starting or self._host.load.remote([model]), timeout=FIRST)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except self._ray.exceptions.RayError as error:
            raise OSError(f"{self.name} of the cluster does not start: {str(error).strip().splitlines()[-1]}") from None
        if theirs != version("sigmafield"):
            raise OSError(f"{self.name} has sigmafield {theirs}, and here it is {version('sigmafield')}")
        self._starting = None

    def has_room(self, runs: int) -> bool:
        """Whether one run more than `runs` should be started; not before a new process is ready."""
        with self._lock:
            if self._starting is not None and not self._is_ready():
                return False
        return runs < (self._runs if self._settings.active is None else self._settings.active)

    def _is_ready(self) -> bool:
        if not self._ray.wait([self._starting], timeout=0)[0]:
            return False
        try:
            self._ray.get(self._starting)
        except self._ray.exceptions.RayError:
            self._host, self._starting = self._started()
            return False
        self._starting = None
        return True

    def run(self, live: Live, shown: Callable[[Recipe], Recipe]) -> list[str]:
        """Run a job to its end there; its states and outputs come into its folder here.

        Args:
            live: The job.
            shown: A recipe as it is written into its images.

        Returns:
            The names of its outputs.

        Raises:
            Stopped: It was asked to stop; its state is saved, unless it is cancelled.
            Lost: The process has died.
            RuntimeError: The job failed there.
        """
        handed, host = self._handed(live, shown), self._host
        try:
            self._ray.get(host.begin.remote(handed))
            while True:
                news = self._ray.get(host.news.remote(live.record.id, live.stop))
                self._runs, self._figures = news.room, news.figures
                for happened in news.happened:
                    if noted(live, happened):
                        return list(happened.outputs or {})
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(str(error.cause or error)) from None
        except self._ray.exceptions.RayError:
            self._replace(host)
            raise Lost from None

    def _handed(self, live: Live, shown: Callable[[Recipe], Recipe]) -> Handed:
        steps = list(live.files.states())
        if live.record.kind == "recipe":
            recipe, state = start_of(live)
            sealed, inputs = read_inputs(recipe)
            return handed_over(live, sealed, inputs, shown(sealed), None if state is None else state.i)
        state = (steps[-1], live.files.state(steps[-1]).read_bytes()) if steps else None
        return Handed(live.record, state=state, outputs=live.files.written())

    def _replace(self, host: Any) -> None:
        """Start another process, once for all jobs of the one that has died."""
        with self._lock:
            if self._host is host:
                self._ray.kill(host)
                self._runs = 1
                self._host, self._starting = self._started()

    @property
    def loaded(self) -> Sequence[str]:
        """Names of the models that are loaded there."""
        return self._figures.models

    def figures(self, running: int) -> DeviceFigures:
        """What there was to measure when a job was last asked for news."""
        figures = self._figures
        return DeviceFigures(self.name, running, figures.models, figures.batch, figures.memory)

    def close(self) -> None:
        """End the process."""
        self._ray.kill(self._host)


def noted(live: Live, happened: Happened) -> bool:
    """Note here what happened there; whether the job is done.

    Raises:
        Stopped: It has stopped there.
        RuntimeError: It has failed there.
    """
    if happened.kind == "stopped":
        raise Stopped
    if happened.kind == "failed":
        raise RuntimeError(happened.error)
    if happened.kind == "begun":
        live.begin(happened.point)
    elif happened.kind == "stepped":
        live.note(happened.point, happened.data, happened.seconds)
    else:
        live.move(happened.point)
    if happened.outputs:
        live.files.save_outputs(happened.outputs)
    if happened.kind == "saved" and happened.data is not None:
        live.save(happened.data)
    return happened.kind == "done"


@contextmanager
def remote_devices(address: str, settings: EngineSettings, workflows: Workflows) -> Iterator[list[RemoteDevice]]:
    """The devices of a cluster: its GPUs, or its CPUs where it has none or the settings say so.

    Args:
        address: See `cluster.joined`.
        settings: Of the engine; its devices may be cpu or cuda.
        workflows: What workflows find.

    Raises:
        ValueError: The settings name other devices, or the cluster has none of that kind.
    """
    kinds = settings.devices or (None,)
    if len(kinds) > 1 or kinds[0] not in (None, "cpu", "cuda"):
        given = ", ".join(settings.devices)
        raise ValueError(f"workers of a cluster have a GPU each, or a CPU: give --device cpu or cuda; got {given}")
    with joined(address) as ray:
        found = ray.cluster_resources()
        room = Room(kinds[0] == "cuda" or (kinds[0] is None and found.get("GPU", 0) >= 1))
        if not (number := int(found.get(room.resource, 0))):
            raise ValueError(f"the cluster at {address} has no {room.resource}")
        yield [RemoteDevice(ray, f"worker {k}", settings, room, workflows) for k in range(1, number + 1)]
