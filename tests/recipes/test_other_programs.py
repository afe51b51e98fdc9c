"""Images of other programs: what they say about themselves becomes a recipe, and what cannot is said.

The files are made here, with metadata in the form in which each program writes it.
"""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from command_line import run
from sigmafield.recipes.image_texts import parsed, texts_of
from sigmafield.recipes.other_programs import read_recipe, recipe_from
from sigmafield.recipes.recipe import Recipe

pytest.importorskip("sd_parsers")


def png(**texts):
    """A PNG with these text chunks, opened."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text if isinstance(text, str) else json.dumps(text))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return Image.open(buffer)


A1111 = (
    "a red (heart:1.2), <lora:shiny:0.7> glossy\nNegative prompt: blurred, text\n"
    "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234, Size: 512x768, "
    "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Clip skip: 2, Hires upscale: 2, Version: v1.9.4"
)
HEART = Recipe(
    "a red (heart:1.2), glossy", "blurred, text", steps=30, sampler="dpmpp_2m", schedule="karras", cfg=6.5, seed=1234,
    width=512, height=768, model="v1-5-pruned-emaonly", clip_skip=-2,
)  # fmt: skip

COMFYUI = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 77, "steps": 25, "cfg": 4.5, "sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "sgm_uniform",
        "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 896, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["10", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "shiny.safetensors", "strength_model": 0.8, "strength_clip": 1.0, "model": ["4", 0],
        "clip": ["4", 1]}},
}  # fmt: skip
LIGHTHOUSE = Recipe(
    "a lighthouse", "fog", sampler="dpmpp_2m_sde", schedule="sgm_uniform", steps=25, cfg=4.5, seed=77, width=1024,
    height=896, model="sd_xl_base_1.0.safetensors",
)  # fmt: skip

INVOKEAI = {
    "app_version": "4.2.0", "generation_mode": "txt2img", "positive_prompt": "a fox", "negative_prompt": "ugly",
    "width": 640, "height": 512, "seed": 99, "cfg_scale": 7.5, "cfg_rescale_multiplier": 0, "steps": 28,
    "scheduler": "euler_a", "model": {"key": "1", "hash": "x", "name": "juggernaut", "base": "sdxl", "type": "main"},
}  # fmt: skip
NOVELAI = {
    "prompt": "1girl, hat", "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "uc": "lowres", "seed": 4242,
    "sampler": "k_euler_ancestral", "noise_schedule": "karras", "sm": False, "cfg_rescale": 0.2,
}  # fmt: skip
FOOOCUS = {
    "prompt": "a castle", "negative_prompt": "people", "styles": "['Fooocus V2']", "performance": "Speed", "steps": 30,
    "resolution": "(896, 1152)", "guidance_scale": 4.0, "sharpness": 2.0, "base_model": "juggernautXL",
    "base_model_hash": "d91d35736d", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "555",
    "version": "Fooocus v2.5.0",
}  # fmt: skip
SWARMUI = {
    "sui_image_params": {
        "prompt": "a red boat", "negativeprompt": "rain", "model": "sd15", "seed": 31, "steps": 18, "cfgscale": 5.5,
        "aspectratio": "Custom", "width": 768, "height": 512, "sampler": "dpmpp_3m_sde", "scheduler": "exponential",
        "swarm_version": "0.9.5.0",
    },
    "sui_extra_data": {"date": "2025-01-01"},
}  # fmt: skip

PROGRAMS = {
    "AUTOMATIC1111": (png(parameters=A1111), HEART, ["<lora:shiny:0.7>", "Hires upscale = 2"]),
    "ComfyUI": (png(prompt=COMFYUI), LIGHTHOUSE, ["shiny.safetensors"]),
    "InvokeAI": (
        png(invokeai_metadata=INVOKEAI),
        Recipe("a fox", "ugly", sampler="euler_ancestral", steps=28, cfg=7.5, seed=99, width=640, height=512,
               model="juggernaut"),
        ["app_version = 4.2.0"],
    ),
    "NovelAI": (
        png(Title="NovelAI generated image", Software="NovelAI", Source="NovelAI Diffusion V3 C1E1DE52",
            Description="1girl, hat", Comment=NOVELAI),
        Recipe("1girl, hat", "lowres", sampler="euler_ancestral", schedule="karras", steps=28, cfg=5.0, seed=4242,
               width=832, height=1216, model="NovelAI Diffusion V3"),
        ["cfg_rescale = 0.2"],
    ),
    "Fooocus": (
        png(parameters=FOOOCUS, fooocus_scheme="fooocus"),
        Recipe("a castle", "people", sampler="dpmpp_2m_sde", schedule="karras", steps=30, cfg=4.0, seed=555, width=896,
               height=1152, model="juggernautXL"),
        ["styles = ['Fooocus V2']", "sharpness = 2.0"],
    ),
    "SwarmUI": (
        png(parameters=SWARMUI),
        Recipe("a red boat", "rain", sampler="dpmpp_3m_sde", schedule="exponential", steps=18, cfg=5.5, seed=31,
               width=768, height=512, model="sd15"),
        ["sui_extra_data"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_wrote_becomes_a_recipe_and_the_rest_is_said(program):
    image, recipe, left = PROGRAMS[program]
    found, notes = recipe_from(image, "image.png")
    assert found == recipe
    assert any(f"read from {program}" in note for note in notes)
    for text in left:
        assert any(text in note for note in notes), notes


def comment(text, encoding="utf-16-be"):
    """EXIF data with a comment, as A1111 writes it into JPEG and WebP files."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(encoding)
    return exif


@pytest.mark.parametrize("kind, encoding", [("JPEG", "utf-16-be"), ("WEBP", "utf-16-be"), ("JPEG", "utf-16-le")])
def test_comments_of_jpeg_and_webp_files_are_read(kind, encoding):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=comment(A1111, encoding))
    assert recipe_from(Image.open(buffer), "x")[0] == HEART


def test_comfyui_writes_its_prompt_into_exif_tags_of_webp_files():
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = "prompt:" + json.dumps(COMFYUI), "workflow:{}"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif)
    assert recipe_from(Image.open(buffer), "x")[0] == LIGHTHOUSE


def test_values_that_a_recipe_cannot_have_are_said_and_the_others_kept():
    text = A1111.replace("DPM++ 2M,", "Restart,").replace("Seed: 1234", "Seed: -5").replace("512x768", "0x768")
    found, notes = recipe_from(png(parameters=text + ", Denoising strength: 0.4"), "x")
    assert (found.sampler.name, found.seed, found.width, found.steps) == ("dpmpp_2m", 0, None, 30)
    for name in ("sampler = Restart", "seed = -5", "width, height = 0, 768", "denoise = 0.4"):
        assert any(name in note for note in notes), notes


def test_the_command_prints_the_recipe_and_says_the_rest(tmp_path):
    path = tmp_path / "a.png"
    image = PROGRAMS["AUTOMATIC1111"][0]
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", image.info["parameters"])
    image.save(path, pnginfo=info)
    ran = run("recipe", path)
    assert ran.exit_code == 0, ran.output
    assert Recipe.from_json(ran.stdout) == HEART
    assert "Hires upscale = 2" in ran.stderr
    assert all(line.startswith("note: ") for line in ran.stderr.splitlines())


def test_the_command_prints_sigmafields_own_recipe(tmp_path):
    path = tmp_path / "own.png"
    assert run("sample", "a red heart", "-o", path, "--steps", 1, "--seed", 3).exit_code == 0
    ran = run("recipe", path)
    assert ran.stderr == ""
    assert Recipe.from_json(ran.stdout) == Recipe("a red heart", steps=1, seed=3)


def test_an_image_without_a_recipe_is_one_line(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    for name, text in [("damaged", "[1]"), ("torn", '{"recipe"')]:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("sigmafield", text)
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png", pnginfo=info)
    for path, message in [
        ("plain.png", "has no recipe that is known"),
        ("none.png", "no image at"),
        ("damaged.png", "damaged.png is damaged"),
        ("torn.png", "torn.png is damaged"),
    ]:
        ran = run("recipe", tmp_path / path)
        assert ran.exit_code == 2
        assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1
        assert message in ran.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["parameters", "prompt", "workflow", "invokeai_metadata", "Comment", "Description", "Source",
                         "sd-metadata", "Dream"])  # fmt: skip


@given(st.dictionaries(NAMES, JSON.map(json.dumps) | st.text(max_size=40), max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_texts_are_read_or_refused(texts):
    image = Image.new("RGB", (2, 2))
    image.info.update(texts)
    assert parsed(texts_of(image)) is None or recipe_from(image, "x")[1]


@pytest.mark.parametrize("base", [FOOOCUS, INVOKEAI, SWARMUI["sui_image_params"]], ids=["fooocus", "invoke", "swarm"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_values_of_known_entries_are_taken_or_said(base, data):
    entries = {**base, **data.draw(st.dictionaries(st.sampled_from(sorted(base)), JSON, max_size=3))}
    name, whole = ("parameters", entries) if "positive_prompt" not in entries else ("invokeai_metadata", entries)
    image = Image.new("RGB", (2, 2))
    image.info[name] = json.dumps({"sui_image_params": whole} if "cfgscale" in base else whole)
    if parsed(texts_of(image)) is None:
        with pytest.raises(ValueError, match="has no recipe that is known"):
            recipe_from(image, "x")
    else:
        found, _ = recipe_from(image, "x")
        assert Recipe.from_json(found.to_json()) == found


def test_read_recipe_opens_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at"):
        read_recipe(tmp_path / "none.png")
