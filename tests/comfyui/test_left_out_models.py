"""Every class about models, conditionings and sampling is offered or listed with its reason, and not both."""

import json
from pathlib import Path

from sigmafield.comfyui.left_out_models import LEFT_OUT_MODELS
from sigmafield.comfyui.nodes import all_nodes

CORE = json.loads((Path(__file__).parents[1] / "data" / "comfyui" / "core_nodes.json").read_text("utf-8"))
CATEGORIES = ("sampling", "model_patches", "advanced", "loaders", "conditioning", "context", "_for_testing")
OTHERS = {"LatentBlend", "VAEDecodeTiled", "VAEEncodeTiled", "LoadLatent", "SaveLatent", "FluxKontextImageScale"}
"""Classes of latents and images that ComfyUI has in these categories."""


def test_offered_or_listed():
    ours = {name for name, entry in CORE.items() if entry["category"].startswith(CATEGORIES)} - OTHERS
    listed = [name for names in LEFT_OUT_MODELS.values() for name in names]
    assert len(set(listed)) == len(listed)
    assert set(listed) & set(all_nodes()) == set()
    assert ours - set(all_nodes()) - set(listed) == set()
