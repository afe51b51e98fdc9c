"""Workflows in files, as ComfyUI writes them and as we write them, and workflows as values."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from recorded import workflows
from safetensors.numpy import save_file

import sigmafield as sf
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.workflow.classes import inputs_of, known_classes
from sigmafield.comfyui.workflow.files import Embedded, of_image, read_workflow, save_arguments, with_workflow
from sigmafield.comfyui.workflow.offered import offered_classes

PAGE = workflows()["templates"]["lora_multiple"]["workflow"]
PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "model": ["4", 0]}, "_meta": {"title": "Häöß"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
}


def image(size=8):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("ending", [".png", ".webp", ".avif"])
def test_an_image_carries_prompt_and_workflow_and_gives_them_back(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    image(64).save(path, **with_workflow(image(64), Embedded(PROMPT, PAGE), ending))
    assert read_workflow(path) == Embedded(PROMPT, PAGE)


def test_a_png_has_its_texts_as_comfyui_writes_them():
    buffer = io.BytesIO()
    image().save(buffer, "PNG", **save_arguments(Embedded(PROMPT, PAGE)))
    chunks, data = [], buffer.getvalue()[8:]
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        chunks.append((kind, data[8 : 8 + size]))
        assert struct.unpack(">I", data[8 + size : 12 + size])[0] == zlib.crc32(kind + data[8 : 8 + size])
        data = data[12 + size :]
    texts = [content for kind, content in chunks if kind == b"tEXt"]
    assert [text.partition(b"\0")[0] for text in texts] == [b"prompt", b"workflow"]
    assert all(text.isascii() for text in texts) and json.loads(texts[0].partition(b"\0")[2]) == PROMPT


def test_webp_has_its_texts_in_the_tags_that_comfyui_uses():
    exif = Image.Exif()
    exif.load(save_arguments(Embedded(PROMPT, PAGE))["exif"])
    assert exif[0x0110].startswith("prompt:{") and exif[0x010F].startswith("workflow:{")


@pytest.mark.parametrize("form", ["tEXt", "iTXt", "zTXt", "comf"])
def test_every_kind_of_text_chunk_is_read(form):
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text = json.dumps(PROMPT)
    if form == "comf":
        info.add(b"comf", f"prompt\0{text}".encode("latin-1"), after_idat=True)
    elif form == "iTXt":
        info.add_itxt("prompt", text)
    else:
        info.add_text("prompt", text, zip=form == "zTXt")
    image().save(buffer, "PNG", pnginfo=info)
    opened = Image.open(buffer)
    opened.load()
    assert of_image(opened).prompt == PROMPT


def test_tensors_and_json_are_read_in_every_form(tmp_path):
    save_file({"x": np.zeros(1)}, tmp_path / "x.latent", {"prompt": json.dumps(PROMPT), "workflow": json.dumps(PAGE)})
    assert read_workflow(tmp_path / "x.latent") == Embedded(PROMPT, PAGE)
    for name, value, found in (("a", PROMPT, Embedded(PROMPT)), ("b", PAGE, Embedded(None, PAGE)),
                               ("c", {"prompt": PROMPT, "client_id": "x"}, Embedded(PROMPT))):  # fmt: skip
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        assert read_workflow(path) == found


def test_what_carries_no_workflow_is_one_clear_error(tmp_path):
    image().save(tmp_path / "plain.png")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "x.safetensors").write_text("nothing")
    for name, words in (
        ("plain.png", "has no workflow"), ("list.json", "neither a prompt"), ("bad.json", "is not JSON"),
        ("x.safetensors", "cannot read"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read_workflow(tmp_path / name)
    for name in ("none.png", "none.json", "none.latent"):
        with pytest.raises(FileNotFoundError, match="none"):
            read_workflow(tmp_path / name)


def test_notes_of_the_server_are_dropped_and_nan_is_refused():
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "is_changed": ["abc"]}}
    [text] = save_arguments(Embedded(prompt))["pnginfo"].chunks
    assert b"is_changed" not in text[1]
    with pytest.raises(ValueError, match="NaN"):
        save_arguments(Embedded({"1": {"class_type": "X", "inputs": {"a": float("nan")}}}))


def test_a_workflow_is_loaded_from_json_images_and_objects(tmp_path):
    path = tmp_path / "x.png"
    image().save(path, **save_arguments(Embedded(PROMPT)))
    assert sf.Workflow.load(path).prompt == sf.Workflow.load(PROMPT).prompt == PROMPT
    assert sf.Workflow.load(Image.open(path)).prompt == PROMPT
    of_page = sf.Workflow.load(PAGE)
    assert of_page["KSampler"]["steps"] == 30
    assert sf.Workflow.load(of_page.to_page()).prompt == of_page.prompt
    assert json.loads(of_page.to_json()) == of_page.prompt


def test_inputs_are_changed_by_id_title_and_class_and_the_workflow_stays():
    wf = sf.Workflow.load(PROMPT)
    changed = wf.with_inputs({"3.seed": 1, "Häöß.steps": 2, "KSampler.cfg": 3, "CheckpointLoaderSimple.ckpt_name": "n"})
    assert dict(changed["3"].inputs) == {"seed": 1, "steps": 2, "cfg": 3, "model": ["4", 0]}
    assert changed[4]["ckpt_name"] == "n" and wf.prompt == PROMPT
    assert wf["KSampler"].with_inputs(seed=9)["3"]["seed"] == 9
    assert wf.with_inputs({"3.latent_image": ["4", 2]})["3"]["latent_image"] == ["4", 2]


@pytest.mark.parametrize(
    "values, words",
    [
        ({"KSamplr.steps": 1}, "did you mean KSampler"),
        ({"3.stesp": 1}, "did you mean steps"),
        ({"3.steps": 1.5}, "3.steps must be of type INT; got 1.5"),
        ({"3.steps": True}, "must be of type INT"),
        ({"3.steps": 0}, "must be from 1 to 10000; got 0"),
        ({"3.sampler_name": "dpmpp2m"}, "no choice 'dpmpp2m'; did you mean dpmpp_2m"),
        ({"3.model": "x"}, "takes a link"),
        ({"3.model": ["9", 0]}, "cannot be linked to '9'"),
        ({"steps": 1}, "NODE.INPUT"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        sf.Workflow.load(PROMPT).with_inputs(values)


def test_a_name_that_several_nodes_have_is_refused_with_their_ids():
    with pytest.raises(KeyError, match="2 nodes are called 'CLIPTextEncode': take one by its id, "):
        sf.Workflow.load(PAGE)["CLIPTextEncode"]


def test_classes_that_run_here_are_known_and_have_the_inputs_of_comfyuis():
    """Some of ours have inputs that newer versions of ComfyUI added."""
    assert {"TiledDiffusion", "KSampler", "WanVaceToVideo"} <= offered_classes().keys()
    assert offered_classes().keys() == all_nodes().keys() | known_classes().keys()
    for name in all_nodes().keys() & known_classes().keys():
        ours, theirs = inputs_of(object_info(all_nodes()[name])), inputs_of(known_classes()[name])
        assert {(each.name, each.type) for each in theirs} <= {(each.name, each.type) for each in ours}, name
        names = [each.name for each in theirs if each.widget]
        assert [each.name for each in ours if each.name in names] == names, name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"definitions": 5}, "definitions must be an object"),
        ({"definitions": {"subgraphs": [1]}}, "a subgraph must be an object with an id"),
        ({"nodes": [{"id": 1, "type": "KSampler", "inputs": [1]}]}, "a slot of a node must be an object"),
    ],
)
def test_malformed_pages_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        sf.Workflow.load({"nodes": [], "links": [], "version": 0.4} | change)
