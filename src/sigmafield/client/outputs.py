"""What a job has made, as images and files of this machine."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from sigmafield.client.requests import renamed


def frames_of(data: bytes, names: Mapping[str, str]) -> list[Image.Image]:
    """The frames of an output, which carry its recipe with the client's own names of images."""
    from sigmafield.recipes.image_io import decoded_frames
    from sigmafield.recipes.output import KEY, CarryingImage

    frames = decoded_frames(data, "the output")
    with Image.open(io.BytesIO(data)) as image:
        text = image.info.get(KEY)
    if not isinstance(text, str):  # a workflow's
        return frames
    label = json.loads(text)
    said = json.dumps({**label, "recipe": renamed(label["recipe"], names)}, ensure_ascii=False)
    return [CarryingImage(frame, said) for frame in frames]


def workflow_in(data: bytes, names: Mapping[str, str]) -> dict[str, str]:
    """The texts in which ComfyUI finds the workflow of an output, with the client's own names of images."""
    with Image.open(io.BytesIO(data)) as image:
        texts = {key: image.info[key] for key in ("prompt", "workflow") if isinstance(image.info.get(key), str)}
    for there, here in names.items():
        texts = {key: text.replace(json.dumps(there), json.dumps(Path(here).name)) for key, text in texts.items()}
    return texts


def below(folder: Path, name: str) -> Path:
    """A path in a folder. ValueError for a name that leads out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"an output's name must stay in its folder; got {name!r}")
    return path
