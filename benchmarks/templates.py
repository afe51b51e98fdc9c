"""How many templates of ComfyUI's page are converted, valid, and run.

    python benchmarks/templates.py          # the table
    python benchmarks/templates.py --run    # also runs those that are to run first

The templates are those of the installed comfyui-workflow-templates-json. Running uses small networks with random
weights, in files with the names and layouts that the template asks for, and images of 64×64 pixels.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

import av
import numpy as np
import original_models
import original_names
import recent_files
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.offered import offered_classes

DATA = Path(__file__).parents[1] / "tests" / "data" / "comfyui" / "templates.json.xz"
MODELS = {
    "ckpt_name": "checkpoints", "unet_name": "diffusion_models", "vae_name": "vae", "clip_name": "text_encoders",
    "clip_name1": "text_encoders", "clip_name2": "text_encoders", "clip_name3": "text_encoders",
    "clip_name4": "text_encoders", "lora_name": "loras",
    "control_net_name": "controlnet", "style_model_name": "style_models",
}  # fmt: skip
"""Folders of files by the input that names them."""
VISION = "clip_vision"
"""Folder of the files that CLIPVisionLoader names, whose input is called as those of text encoders."""
SIZE, STEPS = 64, 4
MAKERS = {"sdxl": "sdxl", "sd3": "sd3", "flux1": "flux"}
FRAMES = 5
ASIDE = ("llm_text",)
"""Families of models that do not draw, and are only used where a switch of a template is on."""


@dataclass(frozen=True)
class Template:
    """A template.

    Args:
        name: Its name.
        first: Whether it is one of those to run first.
        partner: Whether it needs a paid service.
        families: The model families that it uses.
        missing: The classes that are not offered.
        prompt: The prompt that it becomes; None if it has classes that are not even known.
        faults: What is wrong with that prompt, apart from missing files.
    """

    name: str
    first: bool
    partner: bool
    families: tuple[str, ...]
    missing: tuple[str, ...]
    prompt: Prompt | None
    faults: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether only models and input files are missing."""
        return self.prompt is not None and not self.missing and not self.faults


@cache
def templates() -> tuple[Template, ...]:
    """All templates."""
    data, nodes, classes = json.loads(lzma.decompress(DATA.read_bytes())), all_nodes(), offered_classes()
    folder, found = files("comfyui_workflow_templates_json") / "templates", list[Template]()
    for name, entry in data["templates"].items():
        kinds = [data["classes"][k] for k in entry["classes"]]
        prompt, faults = None, tuple[str, ...]()
        try:
            prompt = to_prompt(json.loads((folder / f"{name}.json").read_text("utf-8")), classes)
        except ValueError as error:
            if "unknown node class" not in str(error):
                raise
        used = kinds if prompt is None else {node["class_type"] for node in prompt.values()}
        missing = tuple(sorted(kind for kind in used if kind not in nodes))
        if prompt is not None and not missing:
            faults = faults_of(prompt)
        first = name in data["first"]
        found.append(Template(name, first, entry["partner"], tuple(entry["families"]), missing, prompt, faults))
    return tuple(found)


def faults_of(prompt: Prompt) -> tuple[str, ...]:
    """What is wrong with a prompt, apart from names of files that are missing."""
    nodes, found = all_nodes(), list[str]()
    checked = validate(prompt, nodes, Folders())
    if checked.error is not None and not checked.faulty:
        found.append(checked.error.type)
    for name, faulty in checked.faulty.items():
        for each in faulty.problems:
            key = str(each.extra.get("input_name", ""))
            if key not in MODELS and faulty.class_type not in ("LoadImage", "LoadImageMask", "LoadLatent", "LoadVideo"):
                found.append(f"node {name} ({faulty.class_type}): {each.type} {key}")
    return tuple(found)


def tables() -> list[Table]:
    """How far the templates go, and what the others lack."""
    total = Table("", "all", "without paid services", title="Templates")
    found = templates()
    own = [each for each in found if not each.partner]
    rows = {
        "templates": lambda each: True,
        "converted to a prompt": lambda each: each.prompt is not None,
        "all classes offered": lambda each: not each.missing,
        "valid, apart from missing files": lambda each: each.valid,
    }
    for name, holds in rows.items():
        total.add_row(name, *(str(sum(map(holds, group))) for group in (found, own)))
    classes = Table("class that is not offered", "templates that lack it", "that lack only it", title="Classes")
    lacking = Counter(kind for each in own for kind in each.missing)
    alone = Counter(each.missing[0] for each in own if len(each.missing) == 1)
    for kind, count in lacking.most_common(25):
        classes.add_row(kind, str(count), str(alone[kind]))
    families = Table("family", "templates", "valid", title="Families")
    known = Counter(kind for each in own for kind in each.families or ("no model",))
    valid = Counter(kind for each in own if each.valid for kind in each.families or ("no model",))
    for kind, count in known.most_common(25):
        families.add_row(kind, str(count), str(valid[kind]))
    return [total, classes, families]


def smaller(prompt: Prompt) -> Prompt:
    """The prompt with images of 64×64 pixels, videos of 5 frames and few steps."""
    made = dict[str, Mapping[str, Any]]()
    for name, node in prompt.items():
        inputs = dict(node["inputs"])
        for key in ("width", "height"):
            if isinstance(inputs.get(key), int):
                inputs[key] = SIZE
        if "megapixels" in inputs:
            inputs["megapixels"] = 0.1
        if isinstance(inputs.get("length"), int):
            inputs["length"] = FRAMES
        steps = inputs.get("steps")
        if isinstance(steps, int) and steps > STEPS:
            for key in ("start_at_step", "end_at_step"):
                if isinstance(inputs.get(key), int):
                    inputs[key] = min(STEPS, round(inputs[key] * STEPS / steps))
            inputs["steps"] = STEPS
        made[name] = {**node, "inputs": inputs}
    return made


@cache
def weights(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts and file of a small random model."""
    return original_models.flux(False) if name == "flux schnell" else getattr(original_models, name)()


@cache
def redux() -> dict[str, dict[str, Any]]:
    """Files of a small vision encoder and of the style model that goes with it and with the small Flux."""
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
    }
    vision = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=28, patch_size=14)).state_dict()
    style = ReduxImageEncoder(
        redux_dim=32, txt_in_features=weights("flux")[0]["transformer"].config.joint_attention_dim
    )
    named = {f"vision_model.{each.removeprefix('vision_model.')}": value for each, value in vision.items()}
    return {VISION: named, "style_models": style.state_dict()}


def model_file(family: str, key: str, name: str) -> dict[str, Any]:
    """The tensors of a file that a template names."""
    if family in recent_files.FAMILIES:
        return recent_files.tensors(family, key, name)
    maker = MAKERS[family]
    if "refiner" in name:
        maker = "sdxl_refiner"
    elif "schnell" in name:
        maker = "flux schnell"
    parts, whole = weights(maker)
    if key == "ckpt_name":
        return whole
    if key == "unet_name":
        start = original_names.LDM
        return {each.removeprefix(start): value for each, value in whole.items() if each.startswith(start)}
    if key == "vae_name":
        return original_names.autoencoder(parts["vae"], "")
    if "t5" in name:
        state = parts["text_encoder_2"].state_dict()
        return {each: value for each, value in state.items() if "embed_tokens" not in each}
    return original_names.clip(parts["text_encoder"], "")


def write_video(path: Path) -> None:
    """A short video of noise."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=16)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for _ in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def family_of(template: Template) -> str:
    """The family of the models of a template."""
    return next(each for each in template.families if each not in ASIDE)


def run(template: Template, folder: Path) -> int:
    """Runs a template; the number of files that it saves."""
    assert template.prompt is not None
    for node in template.prompt.values():
        for key, name in node["inputs"].items():
            if key in MODELS:
                kind = VISION if node["class_type"] == "CLIPVisionLoader" else MODELS[key]
                path = folder / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                tensors = redux()[kind] if kind in redux() else model_file(family_of(template), key, name)
                save_file({each: value.detach().clone().contiguous() for each, value in tensors.items()}, path)
            elif node["class_type"] == "LoadVideo" and key == "file":
                path = folder / "input" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path)
            elif node["class_type"] == "LoadImage" and key == "image":
                path = folder / "input" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.new("RGBA", (SIZE, SIZE), (200, 60, 40, 128))
                (image.convert("RGB") if path.suffix.lower() in (".jpg", ".jpeg") else image).save(path)
    models = {kind: [folder / kind] for kind in (*MODELS.values(), VISION)}
    folders = Folders(models, folder / "input", folder / "output", folder / "temp")
    return len(run_workflow(smaller(template.prompt), Context(folders)).files)


def ran(template: Template) -> str:
    """What a template gives when it runs, or why it cannot."""
    if template.missing:
        return f"not offered: {', '.join(template.missing)}"
    known = {*MAKERS, *recent_files.FAMILIES, *ASIDE}
    if unknown := [each for each in template.families if each not in known]:
        return f"family not supported: {', '.join(unknown)}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            return f"runs, images: {run(template, Path(folder))}"
        except (RuntimeError, ValueError) as error:
            return f"fails: {str(error).splitlines()[0][:200]}"


def main(*arguments: str) -> None:
    console = Console(width=140)
    for each in tables():
        console.print(each)
    if "--run" in arguments:
        results = Table("template", "result", title="To run first")
        for each in templates():
            if each.first:
                results.add_row(each.name, ran(each))
        console.print(results)


if __name__ == "__main__":
    main(*sys.argv[1:])
