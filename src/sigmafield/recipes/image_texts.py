"""Texts in an image about how it was made: those of ComfyUI and of other programs, and their entries by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
"""Tags of the comment in EXIF data and of the directory that it is in."""

CODES = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("utf-8", "latin-1")}
"""How a comment begins, and the encodings that it may have then."""

PROMPT_TAG, MAKE_TAG = 0x0110, 0x010F
"""EXIF tags in which ComfyUI has the prompt, and the first of further texts, which go down from there."""

Node = Mapping[str, Any]


class Parsed(NamedTuple):
    """The program that wrote an image, the entries that may be a recipe's, and others that it wrote."""

    program: str
    entries: dict[str, Any]
    rest: dict[str, Any]


def texts_of(image: Image.Image) -> dict[str, str]:
    """The texts that an image carries, by name: a PNG's chunks, or "parameters", the comment in EXIF data.

    ComfyUI writes "prompt:{…}" and "workflow:{…}" into other EXIF tags, which get these names.
    """
    found = {name: value for name, value in image.info.items() if isinstance(name, str) and isinstance(value, str)}
    exif = image.getexif()
    for value in exif.values():
        name, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and name in ("prompt", "workflow"):
            found.setdefault(name, text)
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    if isinstance(comment, (bytes, str)) and "parameters" not in found:
        found["parameters"] = comment if isinstance(comment, str) else _comment(comment)
    return found


def exif_of(texts: Mapping[str, str]) -> Image.Exif:
    """EXIF with texts by name as ComfyUI writes them: the prompt in one tag, the others from the next one downwards."""
    exif = Image.Exif()
    if "prompt" in texts:
        exif[PROMPT_TAG] = f"prompt:{texts['prompt']}"
    for k, name in enumerate(name for name in texts if name != "prompt"):
        exif[MAKE_TAG - k] = f"{name}:{texts[name]}"
    return exif


def _comment(data: bytes) -> str:
    """The text of an EXIF comment; of two byte orders the one that gives more ASCII."""
    encodings = CODES.get(data[:8], ("utf-8",))
    text = data[8:] if data[:8] in CODES else data
    tries = [text.decode(encoding, errors="replace") for encoding in encodings]
    return max(tries, key=lambda each: sum(letter < "\x7f" for letter in each)).strip("\0")


def parsed(texts: Mapping[str, str]) -> Parsed | None:
    """What the texts of an image say; None if no program is known that writes such.

    Raises:
        ImportError: sd-parsers is not installed.
    """
    if swarm := _swarm(texts):
        return swarm
    try:
        from sd_parsers.parsers import MANAGED_PARSERS
    except ImportError:
        raise ImportError(
            'reading the metadata of other programs needs sd-parsers: pip install "sigmafield[metadata]"'
        ) from None
    given = {**texts, **_comfy_links(texts), **_invoke_model(texts)}
    for parser in MANAGED_PARSERS:
        try:
            found = parser().parse(given)
        except Exception:  # texts of another program, or damaged ones, make it raise nearly every type of error
            continue
        if found is not None and found.samplers:
            return _entries(found)
    return None


def _entries(found: Any) -> Parsed:
    """What sd-parsers found, by name; of several samplers the first."""
    sampler, *others = found.samplers
    entries: dict[str, Any] = {
        "prompt": _joined(sampler.prompts),
        "negative": _joined(sampler.negative_prompts),
        "sampler": sampler.name,
        **sampler.parameters,
    }
    if sampler.model is not None and isinstance(sampler.model.name, (str, type(None))):  # else a link of ComfyUI's
        entries["model"] = sampler.model.name or sampler.model.hash
    rest = {f"a further sampler, {other.name}": other.parameters for other in others}
    for name, value in found.metadata.items():
        if isinstance(value, list) and all(isinstance(node, Mapping) and "id" in node for node in value):
            _nodes(name, value, entries, rest)  # ComfyUI's nodes by class
        else:
            entries.setdefault(str(name), value)
    for name, value in (sampler.model.metadata if sampler.model else {}).items():
        rest[f"of the model, {name}"] = value
    return Parsed(found.generator.value, entries, rest)


def _joined(prompts: Sequence[Any]) -> str:
    """The texts of several prompts as one."""
    return ", ".join(prompt.value for prompt in prompts if isinstance(prompt.value, str))


def _nodes(name: str, nodes: list[Node], entries: dict[str, Any], rest: dict[str, Any]) -> None:
    """Entries of ComfyUI's nodes of a class: the model, and the size of the empty latent; the others are left."""
    for node in nodes:
        values = {key: value for key, value in node.items() if key != "id"}
        if "Latent" in name and {"width", "height"} <= values.keys():
            entries |= {key: values.pop(key) for key in ("width", "height")}
            values = {key: value for key, value in values.items() if (key, value) != ("batch_size", 1)}
        for loader in ("ckpt_name", "unet_name"):
            if loader in values and "model" not in entries:
                entries["model"] = values.pop(loader)
        if values:
            rest[f"node {node['id']}, {name}"] = values


def _comfy_links(texts: Mapping[str, str]) -> dict[str, str]:
    """ComfyUI's workflow as far as sd-parsers needs it, its links, from the prompt's: not every file has a workflow."""
    prompt = _json(texts.get("prompt"))
    links = [
        [0, source[0], source[1], node, 0, "CLIP" if name == "clip" else name.upper()]
        for node, content in prompt.items()
        if isinstance(content, Mapping) and isinstance(content.get("inputs"), Mapping)
        for name, source in content["inputs"].items()
        if isinstance(source, list) and len(source) == 2
    ]
    return {"workflow": json.dumps({"links": links})} if prompt else {}


def _invoke_model(texts: Mapping[str, str]) -> dict[str, str]:
    """InvokeAI's metadata with the model's name under the key that its earlier versions used."""
    metadata = _json(texts.get("invokeai_metadata"))
    model = metadata.get("model")
    if not isinstance(model, dict) or "name" not in model:
        return {}
    return {"invokeai_metadata": json.dumps({**metadata, "model": {"model_name": model["name"]}})}


def _swarm(texts: Mapping[str, str]) -> Parsed | None:
    """What SwarmUI wrote: a JSON object with its parameters."""
    whole = _json(texts.get("parameters"))
    entries = whole.get("sui_image_params")
    if not isinstance(entries, dict):
        return None
    del whole["sui_image_params"]
    return Parsed("SwarmUI", entries, whole)


def _json(text: str | None) -> dict[str, Any]:
    """The object that a text holds; {} for any other text."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
