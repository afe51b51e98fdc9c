"""The workflows in examples/workflows/models: one for each family, with the files that ComfyUI's templates name."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.offered import offered_classes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "workflows" / "models"
FAMILIES = {
    "chroma": "chroma", "flux2-klein": "flux2", "hidream": "hidream", "qwen-image": "qwen_image",
    "qwen-image-2.1": "qwen_image_2.1", "qwen-image-edit": "qwen_image", "wan-vace": "wan", "wan2.2": "wan",
    "z-image": "z_image",
}  # fmt: skip
"""The family of each workflow's files."""
OF_VIDEOS = {"hunyuan-image", "hunyuan-video", "hunyuan-video-1.5", "ltx-video", "ltx2"}
"""Workflows with models in directories or checkpoints, which are tested with the other examples."""
FILES = {
    "unet_name": "diffusion_models", "vae_name": "vae", "clip_name": "text_encoders", "clip_name1": "text_encoders",
    "clip_name2": "text_encoders", "clip_name3": "text_encoders", "clip_name4": "text_encoders",
}  # fmt: skip
"""The folder of the files that an input names."""


def opened(name: str) -> Prompt:
    return to_prompt(json.loads((FOLDER / f"{name}.json").read_text("utf-8")), offered_classes())


def test_each_family_has_one() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(OF_VIDEOS | FAMILIES.keys())
    assert all(path.stat().st_size < 10_000 for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_workflow_is_valid(name: str, tmp_path: Path) -> None:
    prompt = opened(name)
    for node in prompt.values():
        for key, kind in FILES.items():
            if key in node["inputs"]:
                (tmp_path / kind).mkdir(exist_ok=True)
                (tmp_path / kind / node["inputs"][key]).touch()
    kinds = {kind: [tmp_path / kind] for kind in FILES.values()}
    found = Folders(kinds, FOLDER.parent, tmp_path / "output", tmp_path / "temp")
    assert validate(prompt, all_nodes(), found).lines() == []


@pytest.mark.slow
@pytest.mark.parametrize("name, family", FAMILIES.items())
def test_a_workflow_runs(name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small networks with random weights, in files of these names."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    templates = import_module("templates")
    template = templates.Template(name, False, False, (family,), (), opened(name), ())
    assert templates.run(template, tmp_path) == 1
