"""Every class of ComfyUI of these categories is offered, or it is said why it is not."""

import json
from pathlib import Path

from sigmafield.comfyui.left_out import LEFT_OUT, reasons
from sigmafield.comfyui.nodes import all_nodes

CORE = json.loads((Path(__file__).parents[1] / "data" / "comfyui" / "core_nodes.json").read_text("utf-8"))
CATEGORIES = ("image", "latent", "mask", "utils", "logic", "transform", "api/image")
OTHERS = {"LatentApplyOperationCFG"}
"""Classes of these categories that change a model."""


def test_every_class_of_images_latents_masks_and_values_is_offered_or_left_out():
    known = {name for name, entry in CORE.items() if entry["category"].split("/")[0] in CATEGORIES} - OTHERS
    assert len(known) > 100
    assert {name for name in known if name not in all_nodes() and name not in reasons()} == set()


def test_what_is_left_out_is_not_offered():
    names = [name for each in LEFT_OUT.values() for name in each]
    assert len(names) == len(set(names)) and not set(names) & set(all_nodes())
    assert reasons()["SaveVideo"] == "needs videos, which no package that is installed reads and writes"
    assert "CLIPVisionLoader" in reasons() and "KSampler" not in reasons()
