"""Workflows in files: JSON, and the metadata of images and tensors as ComfyUI writes it, in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin
from safetensors import SafetensorError, safe_open

from sigmafield.comfyui.exr import texts_in_exr
from sigmafield.comfyui.video import texts_in
from sigmafield.comfyui.workflow.document import is_document, is_prompt
from sigmafield.core.registry import shown
from sigmafield.recipes.image_io import decoded, read_bytes
from sigmafield.recipes.image_texts import exif_of, texts_of
from sigmafield.recipes.output import FORMATS

TENSORS = (".safetensors", ".latent", ".sft")
VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".flac", ".mp3", ".ogg", ".opus")
"""Endings of videos and sound, whose metadata PyAV reads."""

CARRIERS = (".png", ".webp", ".avif")
"""Endings of images that can carry a workflow."""


class Embedded(NamedTuple):
    """What a file says: a prompt in API form, a workflow as ComfyUI's page saves it, or both."""

    prompt: Mapping[str, Any] | None = None
    page: Mapping[str, Any] | None = None


def read_workflow(path: str | Path) -> Embedded:
    """The workflow in a file: JSON of either form, an image, a video, a sound, or a file of tensors.

    Args:
        path: The file; an image by its content, others by their endings.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read, or has no workflow.
        ImportError: It is a video or a sound, and PyAV is not installed; or an EXR file, and OpenEXR is not.
    """
    path = Path(path)
    if path.suffix.lower() == ".exr":
        return of_texts(texts_in_exr(path), str(path))
    if path.suffix.lower() in VIDEOS:
        return of_texts(texts_in(path), str(path))
    if path.suffix.lower() == ".json":
        return of_json(text_in(path), str(path))
    if path.suffix.lower() in TENSORS:
        return of_texts(_tensor_texts(path), str(path))
    return of_image(decoded(read_bytes(path), str(path)), str(path))


def of_json(text: str, name: str) -> Embedded:
    """The workflow of a JSON text in either form; `name` is the file's, for errors, which are ValueErrors."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    return of_value(value, name)


def of_value(value: object, name: str = "the workflow") -> Embedded:
    """The workflow of a JSON value in either form, or of a request to ComfyUI's server; ValueError for any other."""
    if isinstance(value, Mapping):
        if is_document(value):
            return Embedded(page=value)
        if is_prompt(value):
            return Embedded(prompt=value)
        if is_prompt(value.get("prompt")):
            return Embedded(prompt=value["prompt"])
    raise ValueError(
        f"{name} is neither a prompt in API form, nodes with class_type and inputs by id, nor a workflow of ComfyUI's "
        f"page, an object with nodes and links; got {shown(value)}"
    )


def of_image(image: Image.Image, name: str = "the image") -> Embedded:
    """The workflow of an image that was read whole; ValueError if it has none."""
    texts = texts_of(image)
    for chunk in getattr(image, "private_chunks", ()):  # animated PNGs: comf, after the pixels
        if chunk[0] == b"comf":
            key, _, text = chunk[1].partition(b"\0")
            texts.setdefault(key.decode("latin-1"), text.decode("latin-1"))
    return of_texts(texts, name)


def of_texts(texts: Mapping[str, str], name: str) -> Embedded:
    """The workflow in texts by name; ValueError if none of them is one. Values that are not JSON are ignored."""
    prompt, page = (_parsed(texts.get(key)) for key in ("prompt", "workflow"))
    found = Embedded(prompt if is_prompt(prompt) else None, page if is_document(page) else None)
    if found == Embedded():
        raise ValueError(f"{name} has no workflow of ComfyUI{_instead(texts)}")
    return found


def _instead(texts: Mapping[str, str]) -> str:
    """What a file has in place of a workflow, as the end of an error."""
    if "sigmafield" in texts:
        return "; it has a recipe of sigmafield: `sigmafield workflow FILE -o flow.json` makes a workflow of it"
    return "; its texts are " + ", ".join(map(shown, texts)) if texts else ""


def metadata_of(found: Embedded) -> dict[str, str]:
    """The texts that carry a workflow, by name, in ASCII, without what the server notes in a prompt while it runs.

    Raises:
        ValueError: A value is NaN or infinite, with which ComfyUI's page reads nothing.
    """
    prompt = found.prompt and {
        name: {key: value for key, value in node.items() if key != "is_changed"} for name, node in found.prompt.items()
    }
    entries = {name: value for name, value in (("prompt", prompt), ("workflow", found.page)) if value}
    try:
        return {name: json.dumps(value, allow_nan=False) for name, value in entries.items()}
    except ValueError:
        raise ValueError("a workflow must not have NaN or infinity: ComfyUI's page could not read it") from None


def save_arguments(found: Embedded) -> dict[str, Any]:
    """Arguments of Pillow's `save` that write a workflow as ComfyUI does, into a PNG, WebP or AVIF file.

        image.save("out.png", **save_arguments(Embedded(prompt, page)))

    PNG takes tEXt chunks, which `pnginfo` holds and further texts may be added to; the other formats EXIF.
    """
    texts, info = metadata_of(found), PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    return {"pnginfo": info, "exif": exif_of(texts).tobytes()}


def with_workflow(image: Image.Image, found: Embedded, ending: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` for a copy of an image that has a workflow, and its own texts and recipe as before.

    Args:
        image: The image.
        found: The workflow.
        ending: That of the file: .png, .webp or .avif.

    Raises:
        ValueError: Files with another ending cannot carry a workflow.
    """
    if ending not in CARRIERS:
        raise ValueError(f"an image that carries a workflow must end in one of {', '.join(CARRIERS)}; got {ending!r}")
    arguments = save_arguments(found)
    for name, text in image.info.items():
        if isinstance(name, str) and isinstance(text, str) and name not in ("prompt", "workflow"):
            arguments["pnginfo"].add_itxt(name, text)
    if ending == ".png":
        del arguments["exif"]
    else:
        del arguments["pnginfo"]
    xmp = image.info.get("xmp")
    return {**FORMATS[ending][1], **arguments, **({"xmp": xmp} if xmp and ending != ".png" else {})}


def text_in(path: Path) -> str:
    """The text of a file in UTF-8. FileNotFoundError or ValueError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file at {path}") from None
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _tensor_texts(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise FileNotFoundError(f"no file at {path}") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
