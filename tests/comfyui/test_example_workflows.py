"""The workflows in examples/workflows are converted, valid and drawn, and run on the embedded model."""

import json
from importlib import import_module
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sigmafield as sf
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.draw import draw
from sigmafield.comfyui.workflow.offered import offered_classes
from sigmafield.recipes.image_io import open_frames

FOLDER = Path(__file__).parents[2] / "examples" / "workflows"
SIZES = {
    "batch-with-lists": [(64, 64)] * 6,
    "controlnet": [(32, 32)],
    "distance-sampler": [(132, 64)],
    "hires-fix": [(64, 64), (128, 128)],
    "inpaint": [(64, 64)],
    "iterative-mixing": [(128, 128)] * 2,
    "lora-stack": [(64, 64)] * 2,
    "regional-prompts": [(128, 64)],
    "tiled-upscale": [(256, 256)] * 2,
    "two-stage-refiner": [(64, 64)],
}
"""Sizes of the images that each saves."""
DIRECTORIES = {
    "models/ltx2": "LTX-2", "models/hunyuan-video": "HunyuanVideo",
    "models/hunyuan-image": "HunyuanImage-2.1-Diffusers",
    "models/hunyuan-video-1.5": "HunyuanVideo-1.5-Diffusers-480p_i2v",
}  # fmt: skip
"""The directories of models that others need."""
VIDEO = "models/ltx-video"
"""The one that needs a checkpoint of LTX-Video."""
FAST = ("inpaint", "two-stage-refiner")


def folders(tmp_path):
    """Folders with the files that the workflows name; models are empty files."""
    names = {
        "checkpoints": ["v1-5-pruned-emaonly-fp16.safetensors", "ltx-video-2b-v0.9.5.safetensors"],
        "text_encoders": ["t5xxl_fp16.safetensors"],
        "clip_vision": ["sigclip_vision_patch14_384.safetensors"],
        "loras": ["style.safetensors", "details.safetensors"],
        "controlnet": ["control_v11p_sd15_canny_fp16.safetensors"],
    }
    for name in DIRECTORIES.values():
        (tmp_path / "diffusers" / name).mkdir(parents=True)
        (tmp_path / "diffusers" / name / "model_index.json").touch()
    kinds = {kind: [tmp_path / kind] for kind in (*names, "diffusers")}
    for kind, files in names.items():
        (tmp_path / kind).mkdir()
        for name in files:
            (tmp_path / kind / name).touch()
    (tmp_path / "input").mkdir()
    for path in FOLDER.glob("*.png"):
        copyfile(path, tmp_path / "input" / path.name)
    return Folders(kinds, tmp_path / "input", tmp_path / "output", tmp_path / "temp")


def write_loras(folder):
    """Two LoRAs of rank 1 with random weights for a layer of the embedded model each."""
    weights = torch.Generator().manual_seed(1)
    for name in ("style", "details"):
        start = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
        tensors = {
            f"{start}.lora_down.weight": torch.randn(1, 160, generator=weights),
            f"{start}.lora_up.weight": torch.randn(160, 1, generator=weights),
            f"{start}.alpha": torch.tensor(1.0),
        }
        save_file(tensors, folder / f"{name}.safetensors")


def write_controlled(tmp_path, monkeypatch):
    """A small model like Stable Diffusion 1 and a control net for it, with random weights."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    original_models, small_models = import_module("original_models"), import_module("small_models")
    parts, weights = original_models.sd1()
    file = tmp_path / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors"
    save_file({key: value.detach().clone().contiguous() for key, value in weights.items()}, file)
    from diffusers import ControlNetModel

    net = small_models.randomise(ControlNetModel.from_unet(parts["unet"], load_weights_from_unet=False), 1)
    file = tmp_path / "controlnet" / "control_v11p_sd15_canny_fp16.safetensors"
    save_file(net.state_dict(), file)


def write_ltx(tmp_path, monkeypatch):
    """A small model like LTX-Video's and its text encoder, with random weights, and an image."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    video_models, video_names, small_models = map(import_module, ("video_models", "video_names", "small_models"))
    pipe, encoder = video_models.save_ltx(tmp_path / "made", causal=True), small_models.t5("T5", 32128)
    words = {key: value for key, value in encoder.state_dict().items() if "embed_tokens" not in key}
    for file, weights in {
        "checkpoints/ltx-video-2b-v0.9.5.safetensors": video_names.ltx_checkpoint(pipe),
        "text_encoders/t5xxl_fp16.safetensors": words,
    }.items():
        save_file({key: value.detach().clone().contiguous() for key, value in weights.items()}, tmp_path / file)


def test_all_ten_are_there():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(SIZES)


@pytest.mark.parametrize("name", [*SIZES, *DIRECTORIES, VIDEO])
def test_an_example_is_converted_valid_and_drawn(name, tmp_path):
    page = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    prompt = sf.Workflow.load(page).prompt
    kinds = {node["type"] for node in page["nodes"]} - {"Note", "Reroute", "PrimitiveNode"}
    assert {node["class_type"] for node in prompt.values()} == kinds and page["version"] == 0.4
    assert validate(prompt, all_nodes(), folders(tmp_path)).lines() == []
    image = draw(page, offered_classes())
    right = max(node["pos"][0] + node["size"][0] for node in page["nodes"])
    assert image.width >= right - min(node["pos"][0] for node in page["nodes"])


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in SIZES]
)
def test_an_example_runs(name, tmp_path, monkeypatch, request):
    if name in FAST:  # the others draw with the shipped weights
        request.getfixturevalue("few_channels")
    found = folders(tmp_path)
    workflow = sf.Workflow.load(FOLDER / f"{name}.json")
    write_loras(tmp_path / "loras")
    if name == "controlnet":
        write_controlled(tmp_path, monkeypatch)
        workflow = workflow.with_inputs(
            {"EmptyLatentImage.width": 32, "EmptyLatentImage.height": 32, "KSampler.steps": 2}
        )
    made = run_workflow(workflow.prompt, Context(found))
    images = [Image.open(path) for path in made.files if path.is_relative_to(tmp_path / "output")]
    assert sorted(image.size for image in images) == sorted(SIZES[name])
    assert all(high - low > 60 for image in images for low, high in [image.convert("L").getextrema()])


@pytest.mark.slow
def test_a_video_begins_with_an_image(tmp_path, monkeypatch):
    """The example of LTX-Video on random weights draws another video for another seed."""
    found = folders(tmp_path)
    write_ltx(tmp_path, monkeypatch)
    small = {"LTXVImgToVideo.width": 96, "LTXVImgToVideo.height": 64, "LTXVImgToVideo.length": 17}
    workflow = sf.Workflow.load(FOLDER / f"{VIDEO}.json").with_inputs(small | {"LTXVScheduler.steps": 2})
    videos = []
    for seed in (1, 2):
        made = run_workflow(workflow.with_inputs({"SamplerCustom.noise_seed": seed}).prompt, Context(found))
        frames = open_frames(made.files[0])
        assert len(frames) == 17 and frames[0].size == (96, 64)
        videos.append([frames[k].tobytes() for k in (0, 16)])
    assert videos[0][1] != videos[1][1]


@pytest.mark.usefixtures("few_channels")
def test_inpainting_leaves_the_other_pixels(tmp_path):
    made = run_workflow(
        sf.Workflow.load(FOLDER / "inpaint.json").with_inputs({"KSampler.steps": 2}).prompt, Context(folders(tmp_path))
    )
    before, after = (Image.open(path).convert("RGB") for path in (FOLDER / "inpaint.png", made.files[0]))
    left = (0, 0, 30, 64)
    assert before.crop(left).tobytes() == after.crop(left).tobytes() and before.tobytes() != after.tobytes()
