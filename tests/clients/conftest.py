"""A real server that speaks ComfyUI's protocol, and workflows for its clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the command line has started."""
    folder = tmp_path_factory.mktemp("server")
    words = [sys.executable, "-m", "sigmafield", "serve", "--comfyui", "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().removeprefix("listening at ").strip()
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with workflows: api.json, slow.json, wrong.json, page.json; and image.png."""
    folder = tmp_path_factory.mktemp("workflows")
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    nodes: dict[str, tuple[str, dict[str, Any], str]] = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}, "Checkpoint"),
        "6": ("CLIPTextEncode", {"text": "a red heart", "clip": ["4", 1]}, "Positive"),
        "7": ("CLIPTextEncode", {"text": "", "clip": ["4", 1]}, "Negative"),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}, "Latent"),
        "3": ("KSampler", {**sampler, **links}, "KSampler"),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}, "Decode"),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "client"}, "Save Image"),
    }

    def written(name: str, **changes: Any) -> None:
        made = {
            id: {"class_type": kind, "inputs": {**inputs, **(changes if id == "3" else {})}, "_meta": {"title": title}}
            for id, (kind, inputs, title) in nodes.items()
        }
        (folder / name).write_text(json.dumps(made))

    written("api.json")
    written("slow.json", steps=400)
    written("wrong.json", sampler_name="nope")
    (folder / "page.json").write_text(json.dumps(page()))
    Image.new("RGB", (16, 16), "red").save(folder / "image.png")
    return folder


def page() -> dict[str, Any]:
    """A workflow as ComfyUI's page saves it: an image of one colour, inverted and saved."""
    image = {"name": "IMAGE", "type": "IMAGE"}
    return {
        "version": 0.4, "last_node_id": 3, "last_link_id": 2,
        "nodes": [
            {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "outputs": [{**image, "links": [1]}],
             "widgets_values": [8, 8, 1, 255]},
            {"id": 2, "type": "ImageInvert", "mode": 0, "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
             "outputs": [{**image, "links": [2]}], "widgets_values": []},
            {"id": 3, "type": "SaveImage", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
             "outputs": [], "widgets_values": ["page"]},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]], "groups": [], "extra": {},
    }  # fmt: skip
