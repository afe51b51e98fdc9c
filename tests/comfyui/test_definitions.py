"""Node classes: each describes itself as ComfyUI's does, checks its inputs, and is a class that ComfyUI can load."""

import inspect
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch

from sigmafield.comfyui.context import Context, Folders, Progress, Shown, Stepped
from sigmafield.comfyui.declare import NODES, node
from sigmafield.comfyui.names import DISTANCE
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.nodes.image_files import save_image
from sigmafield.comfyui.nodes.image_sizes import ByFactor, ToMatch, resize_image_mask
from sigmafield.comfyui.nodes.latents import empty_latent_image, latent_upscale_by
from sigmafield.comfyui.nodes.text import string_concatenate
from sigmafield.comfyui.nodes.values import switch
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.v1 import DYNAMIC, v1_class
from sigmafield.comfyui.values import AnyValue, Latent
from sigmafield.core.annotations import Range

DATA = Path(__file__).parents[1] / "data" / "comfyui"
CORE = json.loads((DATA / "core_nodes.json").read_text("utf-8"))
NAMES = json.loads((DATA / "sampler_scheduler_names.json").read_text("utf-8"))
OFFERED = sorted(all_nodes())
OURS = ("multiselect",)
"""Options that the recorded entries leave out."""
LATER = {
    "SaveImage": {"outputs": [["IMAGE", "images"]]},
    "SaveAnimatedPNG": {"outputs": [["IMAGE", "images"]]},
    "SaveAnimatedWEBP": {"outputs": [["IMAGE", "images"]]},
    "SaveLatent": {"outputs": [["LATENT", "samples"]]},
    "MaskPreview": {"outputs": [["MASK", "mask"]]},
    "PreviewAny": {"outputs": [["STRING", "STRING"]]},
    "CustomCombo": {"inputs": {"index": ["INT", "opt", {"default": 0}]}, "outputs": [["INT", "INDEX"]]},
    "ComfySwitchNode": {"optional": ["on_false", "on_true"]},
}
"""What versions after the recorded one added: inputs and outputs at the end, and inputs that are optional since."""


def compact(name):
    """Our entry in the form of core_nodes.json."""
    entry, definition = object_info(NODES[name]), NODES[name]
    inputs = {}
    for group, word in (("required", "req"), ("optional", "opt")):
        for key, (kind, options) in entry["input"].get(group, {}).items():
            slot = definition.slot(key)
            options = {each: value for each, value in options.items() if each not in (*OURS, "tooltip")}
            if isinstance(kind, list):
                options |= {"options": kind, "legacy_list_form": True}
                kind = "COMBO"
            if slot.choices is not None and slot.choices.files:
                options["options"] = "<files>"
            inputs[key] = [kind, word, *([options] if options else [])]
    found = {"category": entry["category"], "inputs": inputs}
    outputs = zip(entry["output"], entry["output_name"], entry["output_is_list"])
    found["outputs"] = [[kind, shown, *(["list"] if listed else [])] for kind, shown, listed in outputs]
    found |= {flag: True for flag in ("output_node", "deprecated", "experimental") if entry[flag]}
    if definition.hidden:
        found["hidden"] = dict(definition.hidden)
    if definition.title:
        found["display_name"] = definition.title
    return found


def recorded(name):
    """ComfyUI's entry, with the lists of samplers and schedules in place of their names."""
    text = json.dumps(CORE[name])
    for word, key in (("<SAMPLERS>", "samplers"), ("<SCHEDULERS>", "schedulers")):
        added = list(DISTANCE) if key == "samplers" else []  # by another pack
        text = text.replace(json.dumps(word), json.dumps(NAMES[key] + added))
    return json.loads(text)


def with_later(name, entry):
    """ComfyUI's entry with what later versions added."""
    later = LATER.get(name, {})
    for key in later.get("optional", []):
        entry["inputs"][key][1] = "opt"
    return entry | {
        "inputs": entry["inputs"] | later.get("inputs", {}),
        "outputs": entry["outputs"] + later.get("outputs", []),
    }


def test_object_info_equals_comfyuis():
    names = [name for name in OFFERED if name in CORE]
    assert len(names) > 200
    for name in names:
        ours, theirs = compact(name), with_later(name, recorded(name))
        assert list(ours["inputs"]) == list(theirs["inputs"]), name
        assert json.loads(json.dumps(ours)) == theirs, name


def test_every_input_and_class_has_a_sentence():
    for name in OFFERED:
        assert NODES[name].doc, name
        assert [each.name for each in NODES[name].inputs if not each.doc] == [], name


def test_the_class_of_version_1_says_the_same(tmp_path):
    folders = Folders(input=tmp_path)
    for name in OFFERED:
        definition = NODES[name]
        if any(each.type in DYNAMIC for each in definition.inputs):
            with pytest.raises(ValueError, match="version 1"):
                v1_class(definition, lambda: folders)
            continue
        made = v1_class(definition, lambda: folders)
        types = made.INPUT_TYPES()
        assert list(types["required"]) == [each.name for each in definition.inputs if each.required], name
        assert types.get("hidden", {}) == definition.hidden, name
        assert len(made.RETURN_TYPES) == len(made.OUTPUT_IS_LIST) == len(definition.outputs), name
        assert callable(getattr(made(), made.FUNCTION)), name


def test_nodes_are_functions():
    latent = empty_latent_image(width=64, height=32, batch_size=2)
    assert latent["samples"].shape == (2, 4, 4, 8)
    kept = {**latent, "batch_index": [3, 4]}
    out = latent_upscale_by(kept, "nearest-exact", 2.0)
    assert out["samples"].shape == (2, 4, 8, 16)
    assert out.get("batch_index") == [3, 4] and kept["samples"].shape == (2, 4, 4, 8)
    assert string_concatenate("a", "b", ", ") == "a, b"
    assert switch(True, None, 7) == 7


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: empty_latent_image(width=8), "EmptyLatentImage needs 16 ≤ width ≤ 16384; got 8"),
        (lambda: empty_latent_image(width=64.5), "EmptyLatentImage needs width to be a whole number; got 64.5"),
        (lambda: latent_upscale_by({}, "bilinera"), "did you mean bilinear"),
    ],
)
def test_python_calls_are_checked(call, message):
    with pytest.raises(ValueError, match="(?s)" + message.replace(".", r"\.")):
        call()


def test_dynamic_inputs_arrive_as_objects():
    image = torch.rand(1, 8, 4, 3)
    call = NODES["ResizeImageMaskNode"].call
    wire = {"input": image, "scale_method": "bilinear"}
    made = call({**wire, "resize_type": {"resize_type": "scale by multiplier", "multiplier": 0.5}}, Context())
    assert made.values[0].equal(resize_image_mask(image, ByFactor(multiplier=0.5), "bilinear"))
    made = call(
        {**wire, "resize_type": {"resize_type": "match size", "match": image[:, :2, :2], "crop": "center"}}, Context()
    )
    assert made.values[0].equal(resize_image_mask(image, ToMatch(match=image[:, :2, :2]), "bilinear"))
    with pytest.raises(ValueError, match="0.01 ≤ multiplier ≤ 8; got 9"):
        call({**wire, "resize_type": {"resize_type": "scale by multiplier", "multiplier": 9}}, Context())


def test_save_image_writes_into_the_output_folder_of_the_context(tmp_path):
    folders = Folders(output=tmp_path)
    for expected in (["a/b_00001_.png", "a/b_00002_.png"], ["a/b_00003_.png", "a/b_00004_.png"]):
        made = save_image(torch.rand(2, 4, 4, 3), "a/b", prompt={"1": {}}, context=Context(folders))
        assert [f"{each['subfolder']}/{each['filename']}" for each in made.ui["images"]] == expected
    with pytest.raises(ValueError, match="must stay in the output folder"):
        save_image(torch.rand(1, 4, 4, 3), "../b", context=Context(folders))


def test_version_1_runs_the_node(tmp_path):
    folders = Folders(input=tmp_path, output=tmp_path)
    made = v1_class(NODES["SaveImage"], lambda: folders)()
    images = torch.rand(1, 4, 4, 3)
    shown = made.run(images=images, filename_prefix="x", prompt={"1": {}}, extra_pnginfo=None)
    assert shown["ui"]["images"][0]["filename"] == "x_00001_.png" and shown["result"] == (images,)
    loader = v1_class(NODES["LoadImage"], lambda: folders)
    assert loader.INPUT_TYPES()["required"]["image"][0] == ["x_00001_.png"]
    assert inspect.getfullargspec(loader.VALIDATE_INPUTS).args == ["cls", "image"]
    assert loader.VALIDATE_INPUTS(image="x_00001_.png") is True
    assert loader.VALIDATE_INPUTS(image="y.png") == "Invalid image file: y.png"
    assert len(loader.IS_CHANGED(image="x_00001_.png")) == 64
    image, mask = loader().run(image="x_00001_.png")
    assert image.shape == (1, 4, 4, 3) and mask.shape == (1, 64, 64)
    chooser = v1_class(NODES["ComfySwitchNode"], Folders)()
    assert chooser.check_lazy_status(switch=True, on_false=None, on_true=None) == ["on_true"]


@pytest.fixture
def declared():
    """Remove the classes that a test declares."""
    before = set(NODES)
    yield
    for name in set(NODES) - before:
        NODES.remove(name)


def test_a_node_with_every_kind_of_input(declared):
    @node("Probe", "probe", outputs=("n", "many"), takes_lists=True, module="custom_nodes.probe", version=3)
    def probe(
        numbers: Sequence[Annotated[int, Range(0, 9), Input(step=2)]] = (1,),
        latents: Sequence[Latent] | None = None,
        **more: AnyValue,
    ) -> tuple[int, Annotated[list[int], Socket("INT", listed=True)]]:
        """Probes.

        Args:
            numbers: Numbers.
            latents: Latents.
            more: Others.
        """
        return len(numbers), list(numbers)

    found = NODES["Probe"]
    assert found.takes_lists and found.extra_inputs
    entry = object_info(found)
    assert entry["input"]["required"]["numbers"] == [
        "INT",
        {"min": 0, "max": 9, "default": 1, "step": 2, "tooltip": "Numbers."},
    ]
    assert list(entry["input"]["optional"]) == ["latents"] and entry["output_is_list"] == [False, True]
    assert found.call({"numbers": [1, 2], "latents": [None], "x": [0]}, Context()).values == (2, [1, 2])


def test_a_generator_yields_progress_and_is_run_to_its_end_in_python(declared):
    @node("Steps", "probe")
    def steps(n: Annotated[int, Range(0, 5)] = 3) -> Stepped[int]:
        """Counts.

        Args:
            n: The number.
        """
        for k in range(n):
            yield Progress(k + 1, n)
        return n

    assert steps(2) == 2
    assert [each.name for each in NODES["Steps"].outputs] == ["INT"]
    made = NODES["Steps"].call({"n": 2}, Context())
    assert isinstance(made, Generator) and [each.value for each in made] == [1, 2]
    with pytest.raises(ValueError, match="0 ≤ n ≤ 5; got 6"):
        steps(6)


def test_a_parameter_without_a_known_type_is_an_error_at_once(declared):
    with pytest.raises(TypeError, match="x is of type .* it needs a note, such as Socket"):

        @node("Wrong", "probe")
        def wrong(x: bytes) -> None:
            """Wrong."""

    with pytest.raises(TypeError, match="1 outputs are annotated and 2 are named"):

        @node("Wrong", "probe", outputs=("a", "b"))
        def wrong_outputs() -> int:
            """Wrong."""
            return 1


def test_what_an_interface_shows_goes_beside_the_outputs(declared):
    @node("Showing", "probe", shows=True)
    def showing(which: Literal["a", "b"] = "a") -> Shown[str]:
        """Shows.

        Args:
            which: Which.
        """
        return Shown(which, {"text": (which,)})

    made = NODES["Showing"].call({"which": "b"}, Context())
    assert made.values == ("b",) and made.ui == {"text": ("b",)}
