"""Python files that were written for ComfyUI run here if they use nothing of it but the values of nodes."""

import pytest
import torch
from PIL import Image
from test_executor import output, run, shown

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.context import Blocked, Context, Folders
from sigmafield.comfyui.custom_nodes import foreign_imports, load_nodes
from sigmafield.comfyui.from_v1 import v1_outcome
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.validation import validate

PACK = '''
import numpy as np
import torch
from PIL import Image
try:
    import folder_paths
except ImportError:
    folder_paths = None

class Tint:
    """Multiplies the channels of an image."""
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The image."}),
                "mode": (["red", "blue"], {"default": "blue"}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}),
            },
            "optional": {"note": ("STRING", {"multiline": True})},
            "hidden": {"me": "UNIQUE_ID", "prompt": "PROMPT", "token": "AUTH_TOKEN_COMFY_ORG"},
        }
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("tinted", "text")
    FUNCTION = "tint"
    CATEGORY = "image/colour"
    DESCRIPTION = "Tints."
    calls = 0

    @classmethod
    def VALIDATE_INPUTS(cls, note=""):
        return "no" if note == "forbidden" else True

    def tint(self, image, mode, strength, me, prompt, token, note=""):
        self.calls += 1
        scale = torch.tensor([1.0, 0, 0] if mode == "red" else [0, 0, 1.0]) * strength
        return (image * scale, f"{me} {len(prompt)} {token} {self.calls} {note}")

class Pieces:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"n": ("INT", {"default": 1})}})
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    def make(self, n):
        return ([torch.ones(1, 2, 2, 3) * k for k in range(n)],)

class Total:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"images": ("IMAGE",)}})
    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "add"
    def add(self, images):
        return {"ui": {"text": [str(float(sum(each.sum() for each in images))), str(len(images))]}}

class Later:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "make"
    async def make(self):
        return ("later",)

class Grown:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"n": ("INT", {})}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    def make(self, n):
        return {"result": (["a", 0],), "expand": {"a": {"class_type": "Pieces", "inputs": {"n": n}}}}

class Wrong:
    RETURN_TYPES = ()

class SaveImage(Pieces):
    pass

NODE_CLASS_MAPPINGS = {each.__name__: each for each in (Tint, Pieces, Total, Later, Grown, Wrong, SaveImage)}
NODE_DISPLAY_NAME_MAPPINGS = {"Tint": "Tint it"}
'''


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    (folder / "colours.py").write_text(PACK)
    (folder / "two").mkdir()
    (folder / "two" / "__init__.py").write_text("from .inner import NODE_CLASS_MAPPINGS")
    (folder / "two" / "inner.py").write_text(
        "class A:\n    INPUT_TYPES = classmethod(lambda cls: {'required': {}})\n    RETURN_TYPES = ('INT',)\n"
        "    FUNCTION = 'f'\n    def f(self):\n        return (1,)\nNODE_CLASS_MAPPINGS = {'A': A}"
    )
    (folder / "needs.py").write_text("import torch\n\ndef f():\n    from comfy.utils import ProgressBar\n")
    (folder / "raises.py").write_text("1 / 0")
    (folder / "nothing.py").write_text("x = 1")
    (folder / "off.py.disabled").write_text("1 / 0")
    (folder / "syntax.py").write_text("def")
    return load_nodes(folder, all_nodes())


def test_complete_classes_are_loaded_and_the_others_refused_with_the_reason(loaded):
    assert set(loaded.nodes) == {"Tint", "Pieces", "Total", "Later", "Grown", "A"}
    assert loaded.refused.pop("syntax.py").startswith("SyntaxError")
    assert loaded.refused == {
        "needs.py": "it imports comfy.utils, a module of ComfyUI, in line 4 of needs.py",
        "raises.py": "ZeroDivisionError: division by zero",
        "nothing.py": "it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint",
        "Wrong": "ValueError: Wrong has no INPUT_TYPES, FUNCTION",
        "SaveImage": "colours.py cannot replace the class SaveImage of sigmafield",
    }


def test_a_file_is_not_a_folder_of_nodes(tmp_path):
    (tmp_path / "a.py").touch()
    with pytest.raises(NotADirectoryError, match=f"a.py is a file, and nodes are in a folder: give {tmp_path}$"):
        load_nodes(tmp_path / "a.py")


def test_a_missing_folder_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of nodes"):
        load_nodes(tmp_path / "none")


@pytest.mark.parametrize(
    "source, names",
    [
        ("import comfy.samplers as s, os", ["comfy.samplers"]),
        ("from comfy_api.latest import io", []),
        ("from comfy_api.latest._io import x", ["comfy_api.latest._io"]),
        ("from . import nodes\nfrom .comfy import x\nimport nodesets", []),
        ("try:\n    import server\nexcept Exception:\n    pass", []),
        ("def f():\n    import nodes", ["nodes"]),
    ],
)
def test_imports_of_comfyui_are_found(source, names):
    assert [name for _, name in foreign_imports(source)] == names


def test_a_class_describes_itself(loaded):
    entry = object_info(loaded.nodes["Tint"])
    assert entry["input"]["required"] == {
        "image": ["IMAGE", {"tooltip": "The image."}],
        "mode": [["red", "blue"], {"default": "blue"}],
        "strength": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}],
    }
    assert list(entry["input"]["optional"]) == ["note"] and entry["output_name"] == ["tinted", "text"]
    assert (entry["display_name"], entry["category"], entry["python_module"]) == (
        "Tint it",
        "image/colour",
        "custom_nodes.colours",
    )


def test_classes_run_with_lists_expansion_and_what_they_ask_for(loaded, tmp_path):
    classes = {**all_nodes(), **loaded.nodes}
    prompt = {
        "1": {"class_type": "Pieces", "inputs": {"n": 3}},
        "2": {"class_type": "Tint", "inputs": {"image": ["1", 0], "mode": "red", "strength": 0.5}},
        "3": {"class_type": "Total", "inputs": {"images": ["2", 0]}},
        "4": output("2") | {"inputs": {"source": ["2", 1]}},
        "5": output("6"),
        "6": {"class_type": "Later", "inputs": {}},
        "7": {"class_type": "Grown", "inputs": {"n": 2}},
        "8": {"class_type": "Total", "inputs": {"images": ["7", 0]}},
        "9": output("10"),
        "10": {"class_type": "A", "inputs": {}},
    }
    found = run(prompt, Context(Folders(output=tmp_path)), classes=classes)
    assert isinstance(found[-1], happened.Succeeded)
    assert shown(found, "3") == {"text": ["6.0", "3"]}
    assert shown(found, "4") == {"text": [f"2 10 None {k} " for k in (1, 2, 3)]}
    assert shown(found, "5") == {"text": ["later"]} and shown(found, "9") == {"text": ["1"]}
    assert shown(found, "8") == {"text": ["12.0", "2"]}


def test_a_class_checks_its_inputs_itself(loaded):
    classes = {**all_nodes(), **loaded.nodes}
    inputs = {"image": ["1", 0], "mode": "red", "strength": 0.5, "note": "forbidden"}
    prompt = {"1": {"class_type": "Pieces", "inputs": {"n": 1}}, "2": {"class_type": "Tint", "inputs": inputs}}
    prompt["3"] = {"class_type": "Total", "inputs": {"images": ["2", 0]}}
    with pytest.raises(ValueError, match="note - no"):
        run(prompt, classes=classes)
    prompt["2"] = {"class_type": "Tint", "inputs": {**inputs, "note": "", "mode": "green"}}
    with pytest.raises(ValueError, match="'green' not in"):
        run(prompt, classes=classes)


def test_outcomes_of_methods():
    assert v1_outcome((1, 2), 2).values == (1, 2)
    assert v1_outcome({}, 0).values == () and v1_outcome({"ui": {"a": [1]}}, 0).ui == {"a": [1]}
    assert v1_outcome(Blocked("x"), 2).values == (Blocked("x"), Blocked("x"))
    for wrong in (None, torch.zeros(2)):
        with pytest.raises(TypeError, match="returns a tuple"):
            v1_outcome(wrong, 1)


V3 = """
from comfy_api.latest import ComfyExtension, io, ui

class Mix(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Mix",
            display_name="Mix images",
            category="image/mix",
            description="Mixes.",
            inputs=[
                io.Autogrow.Input(
                    "images", template=io.Autogrow.TemplatePrefix(io.Image.Input("image"), "image", min=2)
                ),
                io.DynamicCombo.Input("how", options=[
                    io.DynamicCombo.Option("mean", []),
                    io.DynamicCombo.Option("sum", [io.Float.Input("scale", default=1.0, min=0.0, max=2.0)]),
                ]),
                io.Combo.Input("mode", options=["a", "b"], optional=True, tooltip="Which."),
            ],
            outputs=[io.Image.Output(), io.String.Output("text", is_output_list=True)],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images, how, mode="a"):
        total = sum(images.values())
        value = total / len(images) if how["how"] == "mean" else total * how["scale"]
        return io.NodeOutput(value, [cls.hidden.unique_id, mode])

class Show(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("Show", inputs=[io.AnyType.Input("value")], is_output_node=True)

    @classmethod
    async def execute(cls, value):
        return io.NodeOutput(ui=ui.PreviewText(str(value)))

class Stop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("Stop", inputs=[], outputs=[io.Image.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(block_execution="stopped")

class Pack(ComfyExtension):
    async def get_node_list(self):
        return [Mix, Show, Stop]

async def comfy_entrypoint():
    return Pack()
"""


@pytest.fixture(scope="module")
def third(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    (folder / "mix.py").write_text(V3)
    loaded = load_nodes(folder)
    assert loaded.refused == {}
    return {**all_nodes(), **loaded.nodes}


def test_the_third_form_describes_itself(third):
    entry = object_info(third["Mix"])
    assert entry["input"]["required"]["images"] == [
        "COMFY_AUTOGROW_V3",
        {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 2, "max": 10}},
    ]
    keys = [each["key"] for each in entry["input"]["required"]["how"][1]["options"]]
    assert keys == ["mean", "sum"]
    assert entry["input"]["optional"]["mode"] == [
        "COMBO",
        {"multiselect": False, "options": ["a", "b"], "tooltip": "Which."},
    ]
    assert entry["output_name"] == ["IMAGE", "text"] and entry["output_is_list"] == [False, True]
    assert entry["input"]["hidden"] == {"unique_id": ["UNIQUE_ID"]} and entry["display_name"] == "Mix images"


def test_the_third_form_runs_with_groups_and_choices(third, tmp_path):
    inputs = {"images.image0": ["1", 0], "images.image1": ["1", 0], "how": "sum", "how.scale": 0.5}
    prompt = {
        "0": {"class_type": "LoadImage", "inputs": {"image": "black.png"}},
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["0", 0]}},
        "2": {"class_type": "Mix", "inputs": inputs},
        "3": {"class_type": "Show", "inputs": {"value": ["2", 1]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
        "5": {"class_type": "Stop", "inputs": {}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "y"}},
    }
    Image.new("RGB", (4, 4)).save(tmp_path / "black.png")
    found = run(prompt, Context(Folders(input=tmp_path, output=tmp_path)), classes=third)
    assert isinstance(found[-1], happened.Succeeded)
    assert shown(found, "3") == {"text": ["2", "a"]}
    assert Image.open(tmp_path / "x_00001_.png").getpixel((0, 0)) == (255, 255, 255)
    assert [each.message for each in found if isinstance(each, happened.Refused)] == ["stopped"]
    short = {**prompt, "2": {"class_type": "Mix", "inputs": {**inputs, "images.image1": 3}}}
    [problem] = validate(short, third, Folders(input=tmp_path)).faulty["2"].problems
    assert problem.type == "invalid_input_type" and "comes from a node" in problem.details


FAMILY = """
class Twice:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"n": ("INT", {"default": 1})}, "hidden": {"me": "UNIQUE_ID"}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    def run(self, n, me):
        return {"result": (["asks", 0],), "expand": {"asks": {"class_type": "Asks", "inputs": {}}}}

class Asks:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}, "hidden": {"graph": "DYNPROMPT", "me": "UNIQUE_ID"}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    def run(self, graph, me):
        found = [graph.get_node(me)["class_type"], graph.get_parent_node_id(me), graph.get_real_node_id(me)]
        found += [graph.get_display_node_id(me), graph.has_node("none"), len(graph.all_node_ids())]
        return (str([*found, len(graph.get_original_prompt())]),)

NODE_CLASS_MAPPINGS = {"Twice": Twice, "Asks": Asks}
"""


def test_a_class_can_ask_for_the_graph_as_it_is_while_it_runs(tmp_path):
    (tmp_path / "family.py").write_text(FAMILY)
    classes = {**all_nodes(), **load_nodes(tmp_path, all_nodes()).nodes}
    prompt = {"1": {"class_type": "Twice", "inputs": {"n": 1}}, "2": output("1")}
    found = run(prompt, Context(Folders(temp=tmp_path)), classes=classes)
    assert shown(found, "2") == {"text": [str(["Asks", "1", "1", "1", False, 3, 2])]}
