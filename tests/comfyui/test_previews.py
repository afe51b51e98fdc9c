"""Previews of samplers: the linear map of the latent format, for the steps that are asked for, and for no others."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sigmafield as sf
from command_line import run
from sigmafield.comfyui import events as happened
from sigmafield.comfyui.context import Context, Folders, Progress
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.previews import Previews, SmallDecoders, linear, previews_by
from sigmafield.comfyui.validation import validate
from sigmafield.core.protocols import Pred, State
from sigmafield.parameterization.latent_format import formats
from sigmafield.recipes.image_io import to_tensor
from sigmafield.serve.comfyui.prompt_runs import small_or_linear
from small_network import shipped_model

DRAWN = {
    "3": {"class_type": "KSampler", "inputs": {
        "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0], "seed": 3, "steps": 5,
        "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 64, "batch_size": 2}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "a heart"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "heart"}},
}  # fmt: skip


def progress(x0, name, value=1):
    return Progress(value, 4, State(value, x0, pred=Pred(x0)), formats()[name])


def test_a_preview_is_the_linear_map_of_the_latent_format():
    x0, sd = torch.randn(2, 4, 3, 6), formats()["SD15"]
    image = Previews(size=6).of(progress(x0, "SD15"))
    values = np.einsum("chw,cr->hwr", x0[0].double().numpy(), np.array(sd.rgb)) + np.array(sd.rgb_bias)
    expected = np.clip((values + 1) / 2, 0, 1) * 255
    assert image.mode == "RGB" and image.size == (6, 3)
    assert np.all(np.abs(np.asarray(image) - np.floor(expected)) <= (np.abs(expected - np.round(expected)) < 1e-3))


def test_a_preview_fits_its_square_and_is_of_the_first_frame():
    video = torch.randn(1, 16, 3, 8, 4)
    image = Previews().of(progress(video, "Wan21"))
    assert image.size == (256, 512)
    assert image == Previews().of(progress(video[:, :, :1], "Wan21"))


def test_there_is_none_where_nothing_is_known():
    x0 = torch.randn(1, 4, 3, 3)
    assert Previews(2).of(progress(x0, "SD15", value=1)) is None
    assert Previews().of(progress(x0, "StableAudio1")) is None
    assert Previews().of(Progress(1, 4)) is None


@pytest.mark.parametrize("values", [{"every": 0}, {"size": 0}])
def test_numbers_are_positive(values):
    with pytest.raises(ValueError, match="every ≥ 1 and size ≥ 1"):
        Previews(**values)


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize("previews, steps", [(None, []), (Previews(2, 32), [2, 4])])
def test_only_the_steps_that_are_asked_for_have_one(previews, steps, tmp_path):
    nodes, context = all_nodes(), Context(Folders(output=tmp_path))
    found = list(execute(validate(DRAWN, nodes), nodes, context, previews=previews))
    stepped = [each for each in found if isinstance(each, happened.Stepped)]
    assert [each.progress.value for each in stepped if each.preview is not None] == steps
    assert {each.preview.size for each in stepped if each.preview is not None} == ({(32, 16)} if steps else set())
    assert len(stepped) == 5


@pytest.fixture
def small_decoder(tmp_path):
    """A decoder with random weights, in a folder as ComfyUI has it."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    made = diffusers.AutoencoderTiny(num_encoder_blocks=(1, 3, 3, 3), latent_channels=4).eval()
    file = tmp_path / "models" / "vae_approx" / "taesd_decoder.safetensors"
    file.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in made.decoder.state_dict().items()}, file)
    return made, file.parent


def test_small_decoders_are_found_by_comfyuis_names(small_decoder, tmp_path):
    made, folder = small_decoder
    x0 = torch.randn(1, 4, 3, 5)
    image = Previews(size=40, decoder=SmallDecoders([tmp_path / "other", folder])).of(progress(x0, "SD15"))
    with torch.no_grad():
        values = ((made.decode(x0).sample[0] / 2 + 0.5).clamp(0, 1) * 255).movedim(0, -1).numpy()
    near = np.abs(values - np.round(values)) < 1e-2
    assert image.size == (40, 24)
    assert np.all(np.abs(np.asarray(image) - np.floor(values)) <= near)
    with pytest.raises(ValueError, match=r"needs taef1_decoder\.safetensors in .*vae_approx"):
        SmallDecoders([folder])(formats()["Flux"])
    with pytest.raises(ValueError, match="not those of a TAESD decoder"):
        save_file({"1.weight": torch.zeros(3, 3)}, folder / "taesdxl_decoder.safetensors")
        SmallDecoders([folder])(formats()["SDXL"])(x0)


def test_a_server_takes_the_linear_map_where_the_file_is_missing(small_decoder):
    _, folder = small_decoder
    decoder, x0 = small_or_linear([folder]), torch.randn(1, 4, 2, 2)
    assert torch.equal(decoder(formats()["SD15"])(x0), SmallDecoders([folder])(formats()["SD15"])(x0))
    assert decoder(formats()["Flux"]) == linear(formats()["Flux"])


def test_formats_without_a_small_decoder_have_their_linear_map(tmp_path):
    assert formats()["Flux2"].taesd == "" and SmallDecoders([tmp_path])(formats()["Flux2"]) == linear(
        formats()["Flux2"]
    )
    assert SmallDecoders([])(formats()["StableAudio1"]) is None


def test_a_pipelines_decoder_makes_previews():
    x0 = torch.rand(1, 4, 3, 6)
    image = Previews(size=6, decoder=lambda latents: lambda x: x[:, :3]).of(progress(x0, "SD15"))
    assert np.array_equal(np.asarray(image), np.floor(x0[0, :3].movedim(0, -1).numpy() * 255))


def test_methods_have_comfyuis_names():
    assert previews_by(None, None, []) is None and previews_by("none", None, []) is None
    assert previews_by("auto", 3, []) == previews_by(None, 3, []) == Previews(3)
    assert previews_by("latent2rgb", None, []) == Previews()
    assert previews_by("taesd", 2, []) == Previews(2, decoder=SmallDecoders([]))
    with pytest.raises(ValueError, match="none makes no previews"):
        previews_by("none", 3, [])


def test_the_command_line_writes_them(tmp_path):
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(DRAWN))
    assert run("run", file, "-o", tmp_path / "out", "--preview-every", 5).exit_code == 0
    preview = Image.open(tmp_path / "out" / "previews" / "3.png")
    drawn = Image.open(tmp_path / "out" / "heart_00001_.png")
    pairs = np.stack([np.asarray(each.convert("L").resize((16, 8))).ravel() for each in (preview, drawn)])
    assert preview.size == (512, 256) and np.corrcoef(pairs)[0, 1] > 0.8
    assert run("run", file, "--preview-every", 0).exit_code == 2
    assert run("run", file, "--preview-every", 2, "--preview-method", "none").exit_code == 2
    assert run("run", file, "--preview-method", "best").exit_code == 2


def test_the_shipped_model_knows_what_its_latents_look_like():
    pipe = shipped_model()
    [image] = sf.generate(pipe, "a green apple", steps=4, seed=2)
    rough = pipe.model.latent.to_rgb(pipe.encode(to_tensor(image)))
    exact = torch.nn.functional.avg_pool2d(to_tensor(image), pipe.model.latent.factor)
    assert float(((rough - exact) ** 2).mean() / exact.var()) < 0.4
