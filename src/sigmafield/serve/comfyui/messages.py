"""What happens while a prompt runs, as ComfyUI's messages, and what its history says of the prompt at the end."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.context import Folders
from sigmafield.serve.comfyui.frames import image_frame, image_frame_about, jpeg, png, text_frame

TO_ALL = ("progress", "progress_state", "execution_interrupted")
"""Messages about a prompt without a client that go to all clients; others go to none."""

IN_HISTORY = ("execution_start", "execution_cached", "execution_success", "execution_error", "execution_interrupted")
"""Messages that the history has."""

ENDS = IN_HISTORY[2:]
"""Messages of which a prompt has one, at its end."""


@dataclass(frozen=True)
class Message:
    """A message.

    Args:
        type: Its type.
        data: As JSON holds it.
    """

    type: str
    data: Mapping[str, Any]


PREVIEW_METADATA = "supports_preview_metadata"
"""Clients that say this read which node a preview is of."""

TEXT_METADATA = "supports_progress_text_metadata"
"""Clients that say this read which prompt a node's text is of."""


@dataclass(frozen=True)
class Frame:
    """A binary message in one of two forms: an image, or a text that a node shows while the prompt runs.

    Args:
        data: Its bytes.
        feature: What a client says to get the longer form.
        longer: Whether this is that form.
        needed: Whether no client may miss it, as the results that a node sends.
    """

    data: bytes
    feature: str
    longer: bool
    needed: bool


def now() -> int:
    """Milliseconds since 1970."""
    return round(time.time() * 1000)


class Course:
    """The messages of one prompt, in order, and its entry in the history.

    Args:
        id: The prompt.
        folders: Those of its files; messages do not say where they are.
    """

    def __init__(self, id: str, folders: Folders = Folders()):
        self.id, self._folders = id, folders
        self.last: str | None = None
        self._nodes: dict[str, dict[str, Any]] = {}
        self._messages: list[tuple[str, Mapping[str, Any]]] = []
        self._outputs: dict[str, Mapping[str, Sequence[Any]]] = {}
        self._cached: tuple[str, ...] = ()

    @property
    def finished(self) -> int:
        """Number of nodes that have their results."""
        return sum(node["state"] == "finished" for node in list(self._nodes.values()))

    @property
    def ended(self) -> bool:
        """Whether the last message has been given."""
        return bool(self._messages) and self._messages[-1][0] in ENDS

    def of(self, event: happened.Event) -> Iterator[Message | Frame]:
        """The messages of an event."""
        if isinstance(event, happened.Started):
            self._cached = event.cached
            yield self._kept("execution_start")
            yield self._kept("execution_cached", nodes=list(event.cached))
        elif isinstance(event, happened.Executing):
            self._nodes[event.node] = self._described(event.node, event.display, event.parent, event.real)
            self.last = event.display
            yield self._state()
            yield self._message("executing", node=event.node, display_node=event.display)
        elif isinstance(event, happened.Stepped):
            yield from self._stepped(event)
        elif isinstance(event, happened.Said):
            yield Frame(text_frame(event.text, self.id, event.display), TEXT_METADATA, longer=True, needed=True)
            yield Frame(text_frame(event.text, event.display), TEXT_METADATA, longer=False, needed=True)
        elif isinstance(event, happened.Executed):
            if event.ui is not None:
                self._nodes.setdefault(event.node, self._described(event.node, event.display, None, event.node))
                self._outputs[event.node] = event.ui
            yield self._message("executed", node=event.node, display_node=event.display, output=event.ui)
        elif isinstance(event, happened.Finished):
            found = self._nodes.setdefault(event.node, self._described(event.node, event.display, None, event.node))
            found |= {"value": found["max"], "state": "finished"}
            yield self._state()
        elif isinstance(event, happened.Succeeded):
            yield self._kept("execution_success")
        else:
            yield from self._stopped(event)

    def _stepped(self, event: happened.Stepped) -> Iterator[Message | Frame]:
        value, most = event.progress.value, max(event.progress.max, 1)
        found = self._nodes[event.node]
        found |= {"value": value, "max": most}
        yield self._state()
        names = ("node_id", "prompt_id", "display_node_id", "parent_node_id", "real_node_id")
        about = {name: found[name] for name in names}
        image, result = _sent(event), event.progress.image is not None
        if image is not None:
            yield Frame(image_frame_about(*image, about), PREVIEW_METADATA, longer=True, needed=result)
        yield self._message("progress", value=value, max=most, node=event.node)
        if image is not None:
            yield Frame(image_frame(*image), PREVIEW_METADATA, longer=False, needed=result)

    def _stopped(self, event: happened.Refused | happened.Failed | happened.Interrupted) -> Iterator[Message]:
        executed = [] if isinstance(event, happened.Refused) else list(event.executed)
        if isinstance(event, happened.Interrupted):
            yield self._kept(
                "execution_interrupted", node_id=event.display, node_type=event.class_type, executed=executed
            )
        elif isinstance(event, happened.Failed):
            if event.node in self._nodes:
                self._nodes[event.node]["state"] = "error"
                yield self._state()
            yield self.failed(event.error, event.display, event.class_type, event.inputs, executed)
        else:  # the run goes on
            yield self._message(
                "execution_error", **_failure(event.display, "", executed), exception_message=event.message,
                exception_type="ExecutionBlocked", traceback=[], current_inputs={}, current_outputs=[], timestamp=now(),
            )  # fmt: skip

    def failed(
        self,
        error: BaseException,
        node: str = "",
        class_type: str = "",
        inputs: Mapping[str, Sequence[Any]] = {},
        executed: Sequence[str] = (),
    ) -> Message:
        """The message of an error, which ends the prompt.

        Args:
            error: The error.
            node: The node that raised it; "" between two nodes.
            class_type: Its class.
            inputs: Its inputs as texts.
            executed: The nodes that have run.
        """
        kind, said = type(error), without_folders(str(error), self._folders)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return self._kept(
            "execution_error", **_failure(node, class_type, executed), exception_message=f"{said}\n",
            exception_type=name, traceback=_lines(error), current_inputs=dict(inputs),
            current_outputs=[*self._cached, *executed],
        )  # fmt: skip

    def shown(self) -> dict[str, Any]:
        """The prompt's entry in the history, without the prompt."""
        status = "success" if self._messages and self._messages[-1][0] == "execution_success" else "error"
        names = {"node_id": "node_id", "display_node": "display_node_id", "parent_node": "parent_node_id"}
        names["real_node_id"] = "real_node_id"
        outputs = dict(self._outputs)  # others may read it while the prompt runs
        return {
            "outputs": outputs,
            "status": {"status_str": status, "completed": status == "success", "messages": list(self._messages)},
            "meta": {node: {to: self._nodes[node][name] for to, name in names.items()} for node in outputs},
        }

    def end(self) -> Message:
        """The message that clients wait for."""
        return Message("executing", {"node": None, "prompt_id": self.id})

    def _described(self, node: str, display: str, parent: str | None, real: str) -> dict[str, Any]:
        return {
            "value": 0.0, "max": 1.0, "state": "running", "node_id": node, "prompt_id": self.id,
            "display_node_id": display, "parent_node_id": parent, "real_node_id": real,
        }  # fmt: skip

    def _state(self) -> Message:
        nodes = {name: dict(node) for name, node in self._nodes.items()}
        return Message("progress_state", {"prompt_id": self.id, "nodes": nodes})

    def _message(self, type: str, **data: Any) -> Message:
        return Message(type, {**data, "prompt_id": self.id})

    def _kept(self, type: str, **data: Any) -> Message:
        made = Message(type, {**data, "prompt_id": self.id, "timestamp": now()})
        self._messages.append((type, made.data))
        return made


def _sent(event: happened.Stepped) -> tuple[bytes, str] | None:
    """(bytes, type) of the image of a step: a preview, or one that a node sends."""
    if event.progress.image is not None:
        return png(event.progress.image), "image/png"
    return None if event.preview is None else (jpeg(event.preview), "image/jpeg")


def without_folders(text: str, folders: Folders) -> str:
    """A text with files named from their folders on: where these are is not for clients."""
    given = [
        *(root for roots in folders.models.values() for root in roots),
        folders.input,
        folders.output,
        folders.temp,
    ]
    for root in sorted({str(root) for root in given if root.is_absolute()}, key=len, reverse=True):
        text = text.replace(f"{root}{os.sep}", "")
    return text


def _failure(node: str, class_type: str, executed: Sequence[str]) -> dict[str, Any]:
    return {"node_id": node, "node_type": class_type, "executed": list(executed)}


def _lines(error: BaseException) -> list[str]:
    """The traceback of an error, with files named from their package: where the server is installed is not said."""
    return [
        f'  File "{_short(frame.filename)}", line {frame.lineno}, in {frame.name}\n    {frame.line}\n'
        for frame in traceback.extract_tb(error.__traceback__)
    ]


def _short(file: str) -> str:
    parts = Path(file).parts
    tops = [k for k, part in enumerate(parts) if part in ("site-packages", "src")]
    return "/".join(parts[tops[-1] + 1 :] if tops else parts[-2:])
