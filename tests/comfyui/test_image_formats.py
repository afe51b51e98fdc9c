"""SaveImageAdvanced's EXR and AVIF files: values by the standards' formulas, read by other libraries."""

import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sigmafield.comfyui.avif import TAGS, deep_avif, yuv
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.exr import exr, to_linear
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.files import read_workflow

RAMP = np.stack(np.broadcast_arrays(np.arange(64) / 64, np.arange(16)[:, None] / 16, 0.25), -1)

PAGE = {"nodes": [], "links": [], "version": 0.4}


def saving(**format):
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 2, "color": 0x4080FF}},
        "2": {
            "class_type": "SaveImageAdvanced",
            "inputs": {
                "images": ["1", 0],
                "filename_prefix": "x",
                **{k.replace("__", "."): v for k, v in format.items()},
            },
        },
    }


def read_exr(path):
    module = pytest.importorskip("OpenEXR")
    with module.File(str(path)) as file:
        [channel] = file.channels().values()
        return channel.pixels, dict(file.header())


@pytest.mark.parametrize("depth, kind", [("16-bit float", np.float16), ("32-bit float", np.float32)])
def test_exr_files_hold_light_and_the_workflow(depth, kind, tmp_path):
    pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    prompt = saving(format="exr", format__bit_depth=depth, format__input_color_space="sRGB")
    made = run_workflow(prompt, Context(Folders(output=tmp_path), extra={"workflow": PAGE}))
    assert [path.name for path in made.files] == ["x_00001.exr", "x_00002.exr"]
    pixels, header = read_exr(made.files[0])
    light = [((c / 255 + 0.055) / 1.055) ** 2.4 for c in (0x40, 0x80, 0xFF)]
    assert pixels.dtype == kind and np.allclose(pixels, light, rtol=1e-3 if kind == np.float16 else 1e-6)
    assert read_workflow(made.files[0]) == (prompt, PAGE)
    assert header["prompt"].startswith('{"1": ') and json.loads(header["workflow"]) == PAGE


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_outside_of_0_and_1_and_alpha_stay(channels, tmp_path):
    pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    values = torch.linspace(-2, 9, 6 * channels).reshape(2, 3, channels)
    (tmp_path / "x.exr").write_bytes(exr(values, True, "linear", {}))
    pixels, header = read_exr(tmp_path / "x.exr")
    assert np.array_equal(pixels.reshape(values.shape), values.numpy())
    assert header["chromaticities"][:2] == pytest.approx((0.64, 0.33))
    if channels == 4:
        (tmp_path / "y.exr").write_bytes(exr(values, True, "sRGB", {}))
        assert np.array_equal(read_exr(tmp_path / "y.exr")[0][..., 3], values[..., 3].numpy())


def test_curves_are_those_of_the_standards():
    light = np.array([0.0, 1e-3, 0.01, 1 / 12, 0.2, 0.7, 1.0])
    srgb = [12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in light]
    hlg = [math.sqrt(3 * x) if x <= 1 / 12 else 0.17883277 * math.log(12 * x - 0.28466892) + 0.55991073 for x in light]
    assert to_linear(np.array(srgb), "sRGB") == pytest.approx(light, abs=1e-7)
    assert to_linear(np.array(hlg), "HDR") == pytest.approx(light, abs=1e-7)
    assert to_linear(light, "linear ACEScg") is light


def test_a_plane_of_one_colour_has_the_values_of_the_matrix():
    red = np.broadcast_to([1.0, 0.0, 0.0], (2, 2, 3))
    assert yuv(red, 10, 1).ravel().tolist() == [round(0.2126 * 1023)] * 4 + [
        round(1023 * (-0.2126 / 1.8556) + 512), min(1023, round(1023 * 0.5 + 512)),
    ]  # fmt: skip
    grey = yuv(np.full((2, 2, 1), 0.5), 8, 9)
    assert grey.ravel().tolist() == [128] * 4 + [128] * 2


@pytest.mark.parametrize("mode, files", [("still images", 2), ("animated", 1)])
@pytest.mark.parametrize("space, tags", [("sRGB", (1, 13, 1)), ("HDR PQ", (9, 16, 9))])
def test_avif_files_of_10_bits_carry_the_workflow(mode, files, space, tags, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    more = {"format__save_mode__fps": 5.0, "format__save_mode__loop_count": 3} if files == 1 else {}
    prompt = saving(
        format="avif", format__bit_depth="10-bit YUV420", format__input_color_space=space, format__crf=10,
        format__save_mode=mode, **more,
    )  # fmt: skip
    made = run_workflow(prompt, Context(Folders(output=tmp_path), extra={"long": "x" * 200_000}))
    assert [path.name for path in made.files] == [f"x_0000{k + 1}.avif" for k in range(files)]
    with Image.open(made.files[0]) as image:
        assert getattr(image, "n_frames", 1) == 3 - files
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - [0x40, 0x80, 0xFF]).max() <= 6
    assert read_workflow(made.files[0]).prompt["1"] == prompt["1"]
    with av.open(str(made.files[0])) as file:
        context = file.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p10le"
        assert (context.color_primaries, context.color_trc, context.colorspace) == tags


def test_frames_are_shown_as_often_as_asked_for():
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = torch.rand(2, 16, 16, 3)
    whole = [deep_avif(frames, 30, {}, 8, "sRGB", 4.0, loops) for loops in (1, 2, 3)]
    lengths = [int.from_bytes(each[each.index(b"tkhd") + 24 :][:8], "big") for each in whole]
    assert lengths[1] == 2 * lengths[0] and lengths[2] == 3 * lengths[0] > 0


@pytest.mark.parametrize("space", TAGS)
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_come_back(bits, space):
    pytest.importorskip("av", reason="PyAV is not installed")
    data = deep_avif(torch.tensor(RAMP)[None], 5, {"prompt": "{}"}, bits, space)
    with Image.open(io.BytesIO(data)) as image:
        assert np.abs(np.asarray(image.convert("RGB")) / 255 - RAMP).max() < 0.05
    with pytest.raises(ValueError, match="sides of an even length; got 63×16"):
        deep_avif(torch.tensor(RAMP)[None, :, :63], 5, {}, bits, space)


@pytest.mark.parametrize(
    "missing, format",
    [
        ("OpenEXR", {"format": "exr"}),
        ("av", {"format": "avif", "format__bit_depth": "10-bit YUV420", "format__save_mode": "still images"}),
    ],
)
def test_what_is_not_installed_is_said_before_anything_runs(missing, format, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    defaults = {"format__input_color_space": "sRGB", "format__bit_depth": "16-bit float", "format__crf": 9}
    wanted = {k: v for k, v in defaults.items() if k != "format__crf" or "avif" in format.values()}
    problem = validate(saving(**{**wanted, **format}), all_nodes()).faulty["2"].problems[0]
    line = f'pip install "sigmafield[{"exr" if missing == "OpenEXR" else "video"}]"'
    assert problem.type == "custom_validation_failed" and line in problem.details.replace("'", '"')


def test_a_file_that_is_not_exr_is_one_clear_error(tmp_path):
    pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    (tmp_path / "x.exr").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="x.exr is not an EXR file"):
        read_workflow(tmp_path / "x.exr")
    with pytest.raises(FileNotFoundError):
        read_workflow(tmp_path / "y.exr")
