"""A job that is a workflow of ComfyUI: it is paused, saved and resumed between two nodes or two steps of a sampler."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.context import Context, Folders, Progress, anything
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.graph import upstream_first
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.paused import Paused, load_paused, paused_bytes
from sigmafield.comfyui.problems import Validated
from sigmafield.comfyui.run import files_of
from sigmafield.comfyui.validation import validate
from sigmafield.core.registry import shown
from sigmafield.recipes.image_io import to_images
from sigmafield.serve.comfyui.prompt_runs import PromptRun, Prompts
from sigmafield.serve.device import Device, Stepping
from sigmafield.serve.files import JobFiles
from sigmafield.serve.limits import Limits
from sigmafield.serve.live import Live, Point, Stopped
from sigmafield.serve.uploads import owner_folder


@dataclass(frozen=True)
class Workflows:
    """What workflows find.

    Args:
        folders: Where models and input images are; outputs are in the folder of the job.
        nodes: The classes by class type; None is all that there are.
        prompts: Those of ComfyUI's protocol, whose files are in folders that they share; None without the protocol.
        limits: What a node may ask for, also where its inputs come from other nodes; None is anything.
    """

    folders: Folders = Folders()
    nodes: Mapping[str, Definition] | None = None
    prompts: Prompts | None = None
    limits: Limits | None = None

    def of(self, owner: str, client: str | None = None) -> Workflows:
        """What the workflows of an owner find: its own images alone, in a folder below that of all.

        Args:
            owner: The owner.
            client: As `JobRecord` has it.
        """
        if client is not None and self.prompts is not None:
            return replace(self, folders=self.prompts.folders(owner))
        return replace(self, folders=replace(self.folders, input=owner_folder(self.folders.input, owner)))

    @property
    def classes(self) -> Mapping[str, Definition]:
        """The classes by class type."""
        return all_nodes() if self.nodes is None else self.nodes

    def checked(self, request: Mapping[str, Any]) -> Validated:
        """The prompt of a request, {"prompt": …, "extra": …, "targets": …, "extra_data": …}.

        Without targets, all outputs of the prompt are wanted; `extra_data` is what ComfyUI's clients sent along.

        Raises:
            ValueError: It cannot run; the message says all that is missing.
        """
        for name in request:
            if name not in ("prompt", "extra", "targets", "extra_data"):
                raise ValueError(f"a workflow's request has prompt, extra, targets and extra_data; got {shown(name)}")
        if not isinstance(request.get("extra", {}), Mapping | None):
            raise ValueError(f"extra must be an object; got {shown(request['extra'])}")
        validated = validate(request.get("prompt"), self.classes, self.folders, request.get("targets"))
        validated.check()
        return validated


@dataclass
class Course:
    """How far a workflow is.

    Args:
        nodes: Number of nodes of the prompt.
        steps: Steps of samplers so far, over all starts of the job.
        done: Nodes that have their results.
        files: Outputs so far.
    """

    nodes: int
    steps: int
    done: set[str] = field(default_factory=set)
    files: dict[str, list[Path]] = field(default_factory=dict)

    def point(self, label: str = "", now: Progress | None = None) -> Point:
        """The point after a step of a node, or between two nodes."""
        value, most = (now.value, max(now.max, 1)) if now else (0, 1)
        share = (
            (min(len(self.done), self.nodes - 1) + value / most) / self.nodes if now else len(self.done) / self.nodes
        )
        return Point(self.steps, self.steps + most - value if now else self.steps, min(share, 1.0), label)


def run_workflow(live: Live, device: Device, workflows: Workflows, run: PromptRun | None = None) -> list[str]:
    """Run a workflow to its end, from where it was saved if it was.

    Args:
        live: The job.
        device: What it runs on.
        workflows: What it finds.
        run: Says what happens to the clients of ComfyUI's protocol, if one of them posted it.

    Returns:
        The names of the files that it has saved.

    Raises:
        Stopped: It was asked to stop; what is needed to go on is saved, unless it is cancelled.
        RuntimeError: A node failed.
    """
    workflows, outputs = workflows.of(live.record.owner, live.record.client), live.files.outputs
    outputs.mkdir(parents=True, exist_ok=True)
    own = replace(workflows.folders, output=outputs, temp=live.files.folder / "temp")
    folders = own if run is None else run.folders
    steps, paused = start_of(live, device, folders)
    validated = workflows.checked(live.record.request) if paused is None else paused.validated
    extra = live.record.request.get("extra")
    metadata = run is None or run.metadata
    check = anything if workflows.limits is None else workflows.limits.check_node
    context = Context(folders, device.name, extra=extra, loading=device.once, metadata=metadata, check=check)
    course = Course(len(validated.prompt), steps, done_before(paused))
    live.begin(course.point())
    stop = threading.Event()
    with Stepping(device.batcher, live.record.priority) as stepping:
        watch = Watch(live, course, folders, stop, stepping)
        cache, previews = (None, None) if run is None else (run.cache, run.previews)
        for event in execute(validated, workflows.classes, context, cache, stop=stop, paused=paused, previews=previews):
            if run is not None and not (isinstance(event, happened.Interrupted) and live.stop != "cancelled"):
                run.tell(event)
            watch(event)
    paths = [path for paths in course.files.values() for path in paths if path.is_file()]
    names = dict.fromkeys(path.relative_to(folders.output).as_posix() for path in paths)
    if run is not None:
        for name in names:
            linked(folders.output / name, outputs / name)
    return list(names)


def linked(file: Path, to: Path) -> None:
    """Give a file another name as well; it is copied where the names are on different disks."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def start_of(live: Live, device: Device, folders: Folders) -> tuple[int, Paused | None]:
    """(steps done, where the prompt goes on), with the files removed that it will write again."""
    for step, path in reversed(live.files.states().items()):
        with suppress(ValueError, KeyError):  # of another version of sigmafield
            paused = load_paused(path, device.name)
            remove_others(live.files, [p for each in paused.done.values() for p in files_of(each.ui or {}, folders)])
            return step, paused
    remove_others(live.files, ())
    return 0, None


def done_before(paused: Paused | None) -> set[str]:
    """The nodes that had run when a prompt was paused."""
    if paused is None:
        return set()
    names = [name for name in (paused.node, *paused.done) if name in paused.prompt]
    return set(upstream_first(paused.prompt, names)) - {paused.node}


def remove_others(files: JobFiles, kept: Sequence[Path]) -> None:
    """Remove outputs that a node wrote and that its saved results do not have: a crash came in between."""
    for path in files.outputs.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


class Watch:
    """What happens between the events of a prompt."""

    def __init__(self, live: Live, course: Course, folders: Folders, stop: threading.Event, stepping: Stepping):
        self.live, self.course, self.folders, self.stop, self.stepping = live, course, folders, stop, stepping

    def __call__(self, event: happened.Event) -> None:
        """Note an event; raises what ends the job."""
        if isinstance(event, happened.Stepped):
            self.stepped(event)
        else:
            self.stepping.leave()
        if isinstance(event, happened.Executed) and event.ui is not None:
            files = files_of(event.ui, self.folders)
            self.course.files[event.node] = [path for path in files if path.is_relative_to(self.folders.output)]
        elif isinstance(event, happened.Finished):
            self.course.done.add(event.node)
            self.live.move(self.course.point())
        elif isinstance(event, happened.Failed):
            raise RuntimeError(f"node {event.node} ({event.class_type}): {event.error}") from event.error
        elif isinstance(event, happened.Interrupted):
            if self.live.stop != "cancelled":
                self.save(event.paused)
            raise Stopped
        if self.live.stop is not None:
            self.stop.set()

    def stepped(self, event: happened.Stepped) -> None:
        """Note a step of a sampler."""
        self.course.steps += 1
        now = event.progress
        node = event.paused.prompt.get(event.display, {}).get("class_type", "")
        point = self.course.point(f"{node} {now.value}/{now.max}", now)
        self.live.step(point, lambda: self.preview(now))
        if self.live.should_save and self.live.stop is None:
            self.save(event.paused)
        if now.value >= now.max:
            self.stepping.leave()
        else:
            self.stepping.enter()

    @torch.no_grad()
    def preview(self, now: Progress) -> Sequence[Image.Image]:
        """The images of a preview."""
        self.stepping.leave()
        if now.latents is None or not now.latents.rgb or now.state is None or now.state.pred is None:
            return []
        return to_images(now.latents.to_rgb(now.state.pred.x0))

    def save(self, paused: Paused) -> bool:
        """Save where the prompt is; False where the disk does not take it, or a node's state has no form on disk."""
        self.stepping.leave()
        try:
            data = paused_bytes(paused)
        except ValueError:  # a result of a custom node: it starts again
            data = paused_bytes(replace(paused, node="", earlier=(), state=None))
        return self.live.save(data)
