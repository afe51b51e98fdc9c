"""What happens while a prompt runs, in order; whoever runs it iterates over these values.

An event's `node` is the id of a node, `display` the id under which an interface shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sigmafield.comfyui.context import Progress
from sigmafield.comfyui.paused import Paused


@dataclass(frozen=True)
class Started:
    """The prompt starts.

    Args:
        cached: The nodes of which the outputs are known already.
    """

    cached: tuple[str, ...]


@dataclass(frozen=True)
class Executing:
    """A node is about to run; again after it has asked for lazy inputs.

    Args:
        node: Id of the node.
        display: Id of the node that an interface shows.
        parent: The node from whose expansion it comes; None for a node of the prompt.
        real: The node of the prompt that it comes from, which may be itself.
    """

    node: str
    display: str
    parent: str | None
    real: str


@dataclass(frozen=True)
class Stepped:
    """A step of a node is done.

    Args:
        node: Id of the node.
        display: Id of the node that an interface shows.
        progress: The number of steps, and the sampler's state.
        paused: All that is needed to go on from here elsewhere.
        preview: A small RGB image of the first sample; None for steps without one, see `Previews`.
    """

    node: str
    display: str
    progress: Progress
    paused: Paused
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Said:
    """A node has a text to show while the prompt runs.

    Args:
        node: Id of the node.
        display: Id of the node at which an interface shows the text.
        text: The text.
    """

    node: str
    display: str
    text: str


@dataclass(frozen=True)
class Executed:
    """A node has something to show, or is equal to one that has.

    Args:
        node: Id of the node.
        display: Id of the node that an interface shows.
        ui: Lists by the name of their kind; None for a node that shows nothing.
    """

    node: str
    display: str
    ui: Mapping[str, Sequence[Any]] | None


@dataclass(frozen=True)
class Finished:
    """A node has its outputs.

    Args:
        node: Id of the node.
        display: Id of the node that an interface shows.
        values: A list per output, of one value unless the node ran for several.
    """

    node: str
    display: str
    values: tuple[Sequence[Any], ...]


@dataclass(frozen=True)
class Refused:
    """A node does not run because an input was blocked with a message; the others go on."""

    node: str
    display: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A node raised an error, which ends the run.

    Args:
        node: Id of the node.
        display: Id of the node that an interface shows.
        class_type: Its class.
        error: The error.
        inputs: Its inputs as texts.
        executed: The nodes that have run.
    """

    node: str
    display: str
    class_type: str
    error: Exception
    inputs: Mapping[str, Sequence[Any]]
    executed: tuple[str, ...]


@dataclass(frozen=True)
class Interrupted:
    """The run was stopped.

    Args:
        node: Id of the node that was running; "" between two nodes.
        display: Id of the node that an interface shows.
        class_type: Its class.
        executed: The nodes that have run.
        paused: All that is needed to go on from here elsewhere.
    """

    node: str
    display: str
    class_type: str
    executed: tuple[str, ...]
    paused: Paused


@dataclass(frozen=True)
class Succeeded:
    """All outputs are computed."""


Event = Started | Executing | Stepped | Said | Executed | Finished | Refused | Failed | Interrupted | Succeeded
