"""Classes of ComfyUI with their inputs and outputs as recorded, for prompts whose classes do not have to run."""

import json
from pathlib import Path

from sigmafield.comfyui.definition import Definition, Output, Slot
from sigmafield.comfyui.nodes import all_nodes

DATA = Path(__file__).parents[1] / "data" / "comfyui"
CORE = json.loads((DATA / "core_nodes.json").read_text("utf-8"))
LISTS = json.loads((DATA / "sampler_scheduler_names.json").read_text("utf-8"))


def recorded(name):
    """The definition of a class of which only the inputs and outputs are known."""
    entry = CORE[name]

    def call(inputs, context):
        raise AssertionError(f"{name} must not run")

    inputs = tuple(
        Slot(key, spec[0], _options(spec[2] if len(spec) > 2 else {}), spec[1] == "req")
        for key, spec in entry["inputs"].items()
    )
    outputs = tuple(Output(each[0], each[1], len(each) > 2) for each in entry["outputs"])
    return Definition(name, entry["category"], call, inputs, outputs, shows=entry.get("output_node", False))


def _options(options):
    found = {key: value for key, value in options.items() if key != "legacy_list_form"}
    lists = {"<SAMPLERS>": LISTS["samplers"], "<SCHEDULERS>": LISTS["schedulers"], "<files>": ["model.safetensors"]}
    listed = found.get("options")
    return found | ({"options": lists.get(listed, listed)} if isinstance(listed, str) else {})


def with_shapes(*names):
    """All classes that run, and those of the names that do not."""
    return {**all_nodes(), **{name: recorded(name) for name in names if name not in all_nodes()}}
