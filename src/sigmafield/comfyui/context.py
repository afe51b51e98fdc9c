"""What a node is given in addition to its inputs, and what it gives in addition to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from PIL import Image as PIL

from sigmafield.comfyui.graph import Graph
from sigmafield.core.arrays import Latent
from sigmafield.core.protocols import State, Steps
from sigmafield.core.registry import near_miss, shown
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.recipes.steering import Loading, each_time
from sigmafield.runs.run import iterate

T = TypeVar("T")
P = ParamSpec("P")

SUFFIXES = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft")
"""Endings of the files that a folder of models offers."""


@dataclass(frozen=True)
class Folders:
    """Where files are.

    Args:
        models: Directories of each kind of model, by ComfyUI's name: "checkpoints", "loras", "vae", ….
        input: Directory of images that are loaded.
        output: Directory of what is saved.
        temp: Directory of previews.
    """

    models: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = Path("temp")

    def names(self, kind: str) -> list[str]:
        """The files of a kind of model, relative to its directories, sorted."""
        found = {
            path.relative_to(root).as_posix()
            for root in self.models.get(kind, ())
            for path in _below(Path(root))
            if path.suffix.lower() in SUFFIXES
        }
        return sorted(found)

    def path(self, kind: str, name: str) -> Path:
        """The file of that name; ValueError with the nearest names if no directory of the kind has it."""
        known = self.names(kind)
        if name not in known:
            raise ValueError(
                f"unknown file {shown(name)} in {kind}{near_miss(name, known) if known else '; it is empty'}"
            )
        return next(Path(root) / name for root in self.models[kind] if (Path(root) / name).is_file())


def _below(root: Path) -> Iterator[Path]:
    """The files below a directory, at any depth; hidden directories are skipped, links are followed."""
    if not root.is_dir():
        return
    for path in root.iterdir():
        if path.is_dir():
            if not path.name.startswith("."):
                yield from _below(path)
        elif path.is_file():
            yield path


Check = Callable[[str, Mapping[str, Any]], None]


def anything(node: str, inputs: Mapping[str, Any]) -> None:
    """Allows any inputs."""


@dataclass(frozen=True)
class Context:
    """What the executor gives a node that asks for it, with a parameter of this type.

    Args:
        folders: Where files are.
        device: Where models are loaded to, as torch names it.
        node: Id of the node in the prompt.
        prompt: The whole prompt.
        extra: Further values that are written into images, such as the workflow.
        graph: The nodes of the prompt with those that have come from expansions.
        state: The state that a sampling node goes on from; None: from the start.
        loading: How models are loaded: each time, or once for all prompts of a server.
        metadata: Whether nodes get the prompt and further values to write them into files.
        check: Called before each call of a node with its id and inputs; ValueError for those that are not allowed.
    """

    folders: Folders = Folders()
    device: str = "cpu"
    node: str = ""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] | None = None
    graph: Graph = Graph({})
    state: State | None = None
    loading: Loading = each_time
    metadata: bool = True
    check: Check = anything


@dataclass(frozen=True)
class Progress:
    """A step of a node that is done.

    Args:
        value: Number of steps done.
        max: Number of all steps.
        state: The sampler's state, from which the node can go on elsewhere.
        latents: What turns the state's denoised latent into a preview.
        image: An image that is sent to whoever runs the prompt, as it is.
    """

    value: int
    max: int
    state: State | None = None
    latents: LatentFormat | None = None
    image: PIL.Image | None = None


Stepped = Generator[Progress, None, T]
"""The return type of a node that yields its progress and returns a T."""


def stepped(run: Steps, start: Latent | State, context: Context, latents: LatentFormat | None = None) -> Stepped[State]:
    """The last state of a run, with progress after each step: `last = yield from stepped(run, start, context)`.

    Args:
        run: What is iterated.
        start: Where it starts, unless the context has a state to go on from.
        context: The node's context.
        latents: What turns a denoised latent into a preview.
    """
    state = context.state or (start if isinstance(start, State) else run.start(start))
    for after in iterate(run, state):
        yield Progress(after.i, max(run.n, after.i), after, latents)
        state = after
    return state


@dataclass(frozen=True)
class Shown(Generic[T]):
    """Outputs of a node together with what an interface shows.

    Args:
        value: The outputs: one value, a tuple of several, None without any.
        ui: Lists by ComfyUI's name of their kind, such as {"images": [{"filename": …}]}.
    """

    value: T
    ui: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Remarked(Generic[T]):
    """Outputs of a node together with a text that an interface shows at the node while the prompt runs.

    Args:
        value: The outputs, as in `Shown`.
        text: The text; unlike what `Shown` has, it is not kept as a result.
    """

    value: T
    text: str


@dataclass(frozen=True)
class Expanded(Generic[T]):
    """Outputs that other nodes compute: the node is replaced by a graph.

    Args:
        value: The outputs; links into the graph are ["node id", slot].
        graph: Nodes in the form of a prompt. Their ids get the node's id and the number of its call in front, as
            "5.0.0.NAME", unless they have it; a link leads to the new node if there is one of that id, else to the
            node of the prompt.
    """

    value: T
    graph: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Blocked:
    """An output that stops the nodes that would receive it.

    Args:
        message: Sent as an error that does not end the run; None: nothing is sent.
    """

    message: str | None = None


@dataclass(frozen=True)
class Remark:
    """A text that an interface shows at a node while the prompt runs.

    Args:
        text: The text.
        node: The id of the node as an interface has it; None is the one that runs.
    """

    text: str
    node: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What one call of a node gives, in one form for nodes of every kind.

    Args:
        values: One value per output.
        ui: What an interface shows.
        graph: The nodes that compute `values`, where these are links.
        remark: A text that is shown once, when the call has ended.
    """

    values: tuple[Any, ...] = ()
    ui: Mapping[str, Sequence[Any]] | None = None
    graph: Mapping[str, Mapping[str, Any]] | None = None
    remark: Remark | None = None
