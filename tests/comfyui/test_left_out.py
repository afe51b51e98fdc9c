"""Every class of ComfyUI is offered, or it is said why it is not."""

import json
from pathlib import Path

from sigmafield.comfyui.left_out import LEFT_OUT, reasons
from sigmafield.comfyui.nodes import all_nodes

CORE = json.loads((Path(__file__).parents[1] / "data" / "comfyui" / "core_nodes.json").read_text("utf-8"))


def test_every_class_is_offered_or_left_out():
    assert len(CORE) == 295
    assert {name for name in CORE if name not in all_nodes() and name not in reasons()} == set()


def test_what_is_left_out_is_not_offered():
    names = [name for each in LEFT_OUT.values() for name in each]
    assert len(names) == len(set(names)) and not set(names) & set(all_nodes())
    assert reasons()["QwenImageDiffsynthControlnet"].startswith("needs a patch of a network")
    assert "KSampler" not in reasons()
