"""Where a workflow's files are: folders of models as ComfyUI has them, further ones from a file, and input images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sigmafield.comfyui.convert import missing_classes
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.graph import Prompt, link
from sigmafield.comfyui.left_out import reasons
from sigmafield.comfyui.replacements import replaced
from sigmafield.comfyui.workflow.classes import Classes
from sigmafield.comfyui.workflow.files import Embedded
from sigmafield.core.registry import near_miss, shown

DIRECTORIES: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints",),
    "configs": ("configs",),
    "loras": ("loras",),
    "vae": ("vae",),
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "embeddings": ("embeddings",),
    "diffusers": ("diffusers",),
    "vae_approx": ("vae_approx",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "gligen": ("gligen",),
    "upscale_models": ("upscale_models",),
    "latent_upscale_models": ("latent_upscale_models",),
    "hypernetworks": ("hypernetworks",),
    "photomaker": ("photomaker",),
    "classifiers": ("classifiers",),
    "model_patches": ("model_patches",),
    "audio_encoders": ("audio_encoders",),
}
"""Directories of each kind of model, below the folder of models."""

OLD_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}
"""Kinds of models by the names that they had."""

Models = dict[str, list[Path]]


def model_folders(root: Path) -> Models:
    """The directories of each kind of model below a folder; FileNotFoundError if the folder does not exist."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of models {root}")
    return {kind: [root / name for name in names] for kind, names in DIRECTORIES.items()}


def extra_folders(file: Path) -> Models:
    """The directories that a file in the form of ComfyUI's extra_model_paths.yaml names.

        comfyui:
          base_path: ~/ComfyUI/models
          checkpoints: checkpoints
          loras: |
            loras
            more/loras

    Args:
        file: The file; relative paths start at base_path, or at the file's folder.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: PyYAML is not installed.
        ValueError: It has another form.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError("reading extra model paths needs PyYAML: pip install 'sigmafield[comfyui]'") from None
    try:
        sections = yaml.safe_load(file.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(sections, Mapping) or not all(isinstance(each, Mapping) for each in sections.values()):
        raise ValueError(f"{file} must have sections with a path per kind of model; got {shown(sections)}")
    found: Models = {}
    for section in sorted(sections.values(), key=lambda each: not each.get("is_default")):
        for kind, paths in _section(section, file).items():
            found.setdefault(kind, []).extend(paths)
    return found


def _section(section: Mapping[str, Any], file: Path) -> Models:
    base = file.parent / os.path.expanduser(os.path.expandvars(str(section.get("base_path") or ".")))
    found: Models = {}
    for kind, text in section.items():
        if kind in ("base_path", "is_default") or text is None:
            continue
        if not isinstance(text, str):
            raise ValueError(f"{kind} in {file} must be paths, one a line; got {shown(text)}")
        lines = [base / line.strip() for line in text.splitlines() if line.strip()]
        found.setdefault(OLD_NAMES.get(kind, kind), []).extend(lines)
    return found


def joined_folders(first: Models, second: Models) -> Models:
    """The directories of both, those of the first before the others."""
    return {kind: [*first.get(kind, ()), *second.get(kind, ())] for kind in {**first, **second}}


def unknown_classes(found: Embedded, classes: Classes, nodes: Mapping[str, Definition]) -> list[str]:
    """A sentence about each class of a workflow that is not offered: its nodes, and the nearest names or the reason.

    Args:
        found: What a file says.
        classes: What is known of classes, offered or not.
        nodes: The classes that are offered.
    """
    kinds: dict[str, list[str]] = {}
    if found.prompt is None:
        kinds = missing_classes(found.page or {}, {name: classes[name] for name in nodes})
    else:
        for name, node in replaced(found.prompt, nodes).items():
            if isinstance(node, Mapping) and "class_type" in node and node["class_type"] not in nodes:
                kinds.setdefault(str(node["class_type"]), []).append(name)
    why = reasons()
    return [
        f"no class {kind} (node {', '.join(names)}): it {why[kind]}" if kind in why
        else f"no class {kind} (node {', '.join(names)}){_close(kind, nodes)}"
        for kind, names in kinds.items()
    ]  # fmt: skip


def _close(kind: str, nodes: Mapping[str, Definition]) -> str:
    """The nearest names of a class, as the end of a sentence; "" where none is near."""
    close = near_miss(kind, nodes)
    return close if close.startswith("; did") else ""


def with_tiny(prompt: Prompt, offered: Sequence[str]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """A prompt in which the embedded model stands in for checkpoints that are not there.

    Args:
        prompt: The prompt.
        offered: The checkpoints that are there.

    Returns:
        The prompt, and a sentence about each loader that was changed.
    """
    made: dict[str, Mapping[str, Any]] = dict(prompt)
    notes: list[str] = []
    for name, node in prompt.items():
        file = node.get("inputs", {}).get("ckpt_name")
        if file is not None and link(file) is None and file not in offered:
            made[name] = {**node, "inputs": {**node["inputs"], "ckpt_name": "tiny"}}
            notes.append(f"node {name}: the embedded model stands in for the missing checkpoint {file}")
    return made, notes
