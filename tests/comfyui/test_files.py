"""Nodes that load and save files: what is in a file is read again by other programs' rules."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.declare import NODES
from sigmafield.comfyui.nodes import animations, image_files, image_formats, latent_files, text
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.workflow.files import read_workflow
from sigmafield.recipes.image_io import open_frames, open_image

PROMPT = {"3": {"class_type": "Größe", "inputs": {"x": float("nan")}}}
WRITTEN = '{"3": {"class_type": "Gr\\u00f6\\u00dfe", "inputs": {"x": null}}}'
WORKFLOW = {"workflow": {"nodes": []}, "other": 1}


@pytest.fixture
def context(tmp_path):
    return Context(Folders(input=tmp_path, output=tmp_path / "out", temp=tmp_path / "temp"))


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def load(context, image, name="x.png", **options):
    image.save(context.folders.input / name, **options)
    return image_files.load_image(name, context)


def test_images_are_loaded_with_one_minus_alpha(context):
    rgba = pixels(4, 5, 4)
    image, mask = load(context, Image.fromarray(rgba))
    assert image[0].numpy() == pytest.approx(rgba[..., :3] / 255) and mask[0].numpy() == pytest.approx(
        1 - rgba[..., 3] / 255
    )
    image, mask = load(context, Image.fromarray(rgba[..., :3]))
    assert image[0].numpy() == pytest.approx(rgba[..., :3] / 255) and mask.equal(torch.zeros(1, 64, 64))
    image, mask = load(context, Image.fromarray(rgba[..., 0]))
    assert image[0].numpy() == pytest.approx(np.stack([rgba[..., 0]] * 3, -1) / 255)


def test_transparent_colours_of_a_palette_are_a_mask(context):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image = image.convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    out, mask = load(context, image, transparency=1)
    assert mask.tolist() == [[[0, 1], [1, 0]]] and out[0, 0].tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_deep_grey_values_are_divided_by_255_twice(context, mode):
    levels = np.array([[0, 254, 255, 1000], [32768, 65024, 65025, 65535]])
    deep = Image.fromarray(levels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(levels.astype(np.int32))
    assert deep.mode == mode
    image, mask = load(context, deep, "x.tiff" if mode == "I" else "x.png")
    expected = np.minimum(levels // 255, 255) / 255
    assert image[0].numpy() == pytest.approx(np.stack([expected] * 3, -1)) and mask.shape == (1, 64, 64)


def test_images_are_turned_as_their_exif_says(context):
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was turned: show it 90° clockwise
    rgb = pixels(4, 6, 3)
    image, _ = load(context, Image.fromarray(rgb), "x.png", exif=exif)
    assert image[0].numpy() == pytest.approx(np.rot90(rgb, -1) / 255)


def test_frames_are_a_batch_with_a_mask_each(context):
    frames = [Image.fromarray(pixels(4, 5, 4, seed=k)) for k in range(3)]
    image, mask = load(context, frames[0], "x.webp", save_all=True, append_images=frames[1:], lossless=True, exact=True)
    for k in range(3):
        assert image[k].numpy() == pytest.approx(pixels(4, 5, 4, seed=k)[..., :3] / 255)
        assert mask[k].numpy() == pytest.approx(1 - pixels(4, 5, 4, seed=k)[..., 3] / 255)
    plain = [each.convert("RGB") for each in frames]
    image, mask = load(context, plain[0], "x.webp", save_all=True, append_images=plain[1:], lossless=True)
    assert image.shape == (3, 4, 5, 3) and mask.equal(torch.zeros(3, 64, 64))


def test_frames_of_another_size_and_previews_of_cameras_are_left_out(context):
    first, other = Image.fromarray(pixels(4, 5, 3)), Image.fromarray(pixels(8, 8, 3, seed=1))
    image, _ = load(context, first, "x.tiff", save_all=True, append_images=[other, first])
    assert image.shape == (2, 4, 5, 3)
    same = Image.fromarray(pixels(4, 5, 3, seed=2))
    image, mask = load(context, first, "x.mpo", format="MPO", save_all=True, append_images=[same])
    assert image.shape == (1, 4, 5, 3) and mask.shape == (1, 64, 64)


def test_outputs_and_masks_are_loaded(context):
    rgba = pixels(4, 5, 4)
    context.folders.output.mkdir()
    Image.fromarray(rgba).save(context.folders.output / "a.png")
    image, _ = image_files.load_image_output("a.png [output]", context)
    assert image[0].numpy() == pytest.approx(rgba[..., :3] / 255)
    for k, channel in enumerate(("red", "green", "blue")):
        assert image_files.load_image_mask("a.png [output]", channel, context)[0].numpy() == pytest.approx(
            rgba[..., k] / 255
        )
    assert image_files.load_image_mask("a.png [output]", "alpha", context)[0].numpy() == pytest.approx(
        1 - rgba[..., 3] / 255
    )
    Image.fromarray(rgba[..., 0]).save(context.folders.input / "grey.png")
    assert image_files.load_image_mask("grey.png", "alpha", context).equal(torch.zeros(1, 4, 5))
    for name in ("LoadImage", "LoadImageMask", "LoadImageOutput"):
        checks, digest = NODES[name].validate, NODES[name].fingerprint
        assert checks and digest and len(digest.ask({"image": "grey.png"}, context)) == 64
        with pytest.raises(ValueError, match="Invalid image file: none.png"):
            checks.ask({"image": "none.png"}, context)


def test_saved_images_are_cut_to_8_bits_and_hold_the_workflow(context):
    values = torch.tensor([0.0, 0.999, 1.7, -1, 0.5, 0.3]).reshape(1, 1, 2, 3)
    made = image_files.save_image(values, "a_%width%", prompt=PROMPT, extra_pnginfo=WORKFLOW, context=context)
    assert made.value is values
    assert made.ui == {"images": [{"filename": "a_2_00001_.png", "subfolder": "", "type": "output"}]}
    with Image.open(context.folders.output / "a_2_00001_.png") as file:
        assert np.asarray(file).ravel().tolist() == [0, 254, 255, 0, 127, 76]
        assert file.text == {"prompt": WRITTEN, "workflow": '{"nodes": []}', "other": "1"}
    raw = (context.folders.output / "a_2_00001_.png").read_bytes()
    assert b"tEXtprompt\0" in raw and b"iTXt" not in raw


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_of_16_bits(context, channels):
    values = torch.rand(1, 3, 4, channels, dtype=torch.float64)
    png = image_formats.Png(bit_depth="16-bit")
    made = image_formats.save_image_advanced(values, "deep", format=png, prompt=PROMPT, context=context)
    assert [each["filename"] for each in made.ui["images"]] == ["deep_00001.png"]
    raw = (context.folders.output / "deep_00001.png").read_bytes()
    with Image.open(context.folders.output / "deep_00001.png") as file:
        assert file.size == (4, 3) and file.text == {"prompt": WRITTEN}
        file.load()
        top = np.asarray(file.convert("I;16") if channels == 1 else file)
    assert raw[24] == 16  # bits, in the header
    levels = np.floor(values[0].numpy() * 65535).astype(int)
    expected = levels[..., 0] if channels == 1 else levels >> 8  # Pillow reads the upper byte of colours
    assert np.array_equal(top, expected)
    again = image_formats.save_image_advanced(values, "deep", format=image_formats.Png(), context=context)
    assert again.ui["images"][0]["filename"] == "deep_00002.png"


def test_previews_go_to_the_folder_of_temporary_files(context):
    images = torch.rand(2, 3, 4, 3)
    for made in (
        image_files.preview_image(images, context=context),
        image_files.mask_preview(images[..., 0], context=context),
    ):
        names = [each["filename"] for each in made.ui["images"]]
        assert [each["type"] for each in made.ui["images"]] == ["temp", "temp"]
        assert all(name.startswith("ComfyUI_temp_") and (context.folders.temp / name).is_file() for name in names)
    made = image_files.image_compare(images, None, context=context)
    assert made.ui["b_images"] == [] and made.ui["a_images"][0]["filename"].startswith("comfy.compare.a")


def test_moving_images_hold_the_workflow_where_their_formats_have_it(context):
    frames = (torch.arange(3 * 4 * 4 * 3) % 256).reshape(3, 4, 4, 3) / 255
    options = {"prompt": PROMPT, "extra_pnginfo": WORKFLOW, "context": context}
    made = animations.save_animated_png(frames, "m", 8.0, **options)
    assert made.ui["images"][0]["filename"] == "m_00001_.png" and made.ui["animated"] == [True]
    raw = (context.folders.output / "m_00001_.png").read_bytes()
    assert raw.index(b"IDAT") < raw.index(f"comfprompt\0{WRITTEN}".encode()) < raw.index(b'comfworkflow\0{"nodes": []}')
    made = animations.save_animated_webp(frames, "m", 8.0, method="fastest", **options)
    with Image.open(context.folders.output / made.ui["images"][0]["filename"]) as file:
        assert (file.format, file.n_frames) == ("WEBP", 3)
        exif = file.getexif()
        assert (exif[0x110], exif[0x10F], exif[0x10E]) == (f"prompt:{WRITTEN}", 'workflow:{"nodes": []}', "other:1")
        file.seek(2)
        file.load()
        assert file.info["duration"] == 125
        assert np.array_equal(np.asarray(file.convert("RGB")), np.round(frames[2].numpy() * 255))


def test_latents_are_kept_in_files(context):
    samples = torch.randn(2, 4, 3, 3)
    made = latent_files.save_latent(
        {"samples": samples}, "latents/x", prompt=PROMPT, extra_pnginfo=WORKFLOW, context=context
    )
    assert made.ui == {"latents": [{"filename": "x_00001_.latent", "subfolder": "latents", "type": "output"}]}
    path = context.folders.output / "latents" / "x_00001_.latent"
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"prompt": WRITTEN, "workflow": '{"nodes": []}', "other": "1"}
        assert set(file.keys()) == {"latent_tensor", "latent_format_version_0"}
    assert latent_files.load_latent("latents/x_00001_.latent [output]", context)["samples"].equal(samples)
    safetensors.torch.save_file({"latent_tensor": samples}, context.folders.input / "old.latent")
    old = latent_files.load_latent("old.latent", context)["samples"]
    assert torch.allclose(old, samples / 0.18215)
    offered = NODES["LoadLatent"].inputs[0].described(context.folders)["options"]
    assert offered == ["old.latent"]
    (context.folders.input / "bad.latent").write_bytes(b"no")
    with pytest.raises(ValueError, match="bad.latent is not a file of latents"):
        latent_files.load_latent("bad.latent", context)


def test_texts_are_saved(context):
    made = text.save_text('{"a": "é"}', "t", format="json", context=context)
    [file] = made.ui["files"]
    assert file == {"filename": "t_00001.json", "subfolder": "", "type": "output"} and made.value == '{"a": "é"}'
    assert (context.folders.output / "t_00001.json").read_text("utf-8") == json.dumps(
        {"a": "é"}, indent=2, ensure_ascii=False
    )
    made = text.save_text("no json", "t", format="json", context=context)
    assert (context.folders.output / made.ui["files"][0]["filename"]).read_text("utf-8") == "no json"
    assert made.ui["files"][0]["filename"] == "t_00002.json"


def test_painting_lies_over_the_image(context):
    rgba = pixels(4, 6, 4)
    Image.fromarray(rgba).save(context.folders.input / "p.png")
    base = torch.rand(2, 4, 6, 3)
    made = image_files.painter("p.png", image=base, context=context)
    alpha = rgba[..., 3] / 255
    expected = rgba[..., :3] / 255 * alpha[..., None] + base[0].numpy() * (1 - alpha[..., None])
    assert made.value[0][0].numpy() == pytest.approx(expected, abs=1e-6)
    assert made.value[1][0].numpy() == pytest.approx(alpha, abs=1e-6)
    image, mask = image_files.painter("", 64, 128, "#ff8000", context=context).value
    assert image.shape == (1, 128, 64, 3) and image[0, 0, 0].tolist() == pytest.approx([1, 128 / 255, 0])
    assert mask.equal(torch.zeros(1, 128, 64))


@pytest.mark.parametrize("mode, files", [("still images", 2), ("animated", 1)])
def test_avif_files_carry_the_workflow(mode, files, tmp_path):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 2, "color": 0x4080FF}},
        "2": {"class_type": "SaveImageAdvanced", "inputs": {
            "images": ["1", 0], "filename_prefix": "x", "format": "avif", "format.bit_depth": "auto",
            "format.input_color_space": "sRGB", "format.crf": 10, "format.save_mode": mode, "format.save_mode.fps": 5.0,
            "format.save_mode.loop_count": 0}},
    }  # fmt: skip
    made = run_workflow(prompt, Context(Folders(output=tmp_path)))
    assert [path.name for path in made.files] == [f"x_0000{k + 1}.avif" for k in range(files)]
    assert made.shown["2"].get("animated") == ([True] if files == 1 else None)
    image = open_image(made.files[0])
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - [0x40, 0x80, 0xFF]).max() <= 6
    assert read_workflow(made.files[0]).prompt["1"] == prompt["1"]
    assert len(open_frames(made.files[0])) == 3 - files
