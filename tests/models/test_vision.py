"""Vision encoders give what those of transformers give; Flux Redux gives diffusers' tokens."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes.vision import (
    clip_vision_encode,
    clip_vision_loader,
    style_model_apply,
    style_model_loader,
)
from sigmafield.models.load_parts import load_vision
from sigmafield.models.vision import load_style

pytest.importorskip("diffusers")

from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 16, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
PIXELS = (np.random.default_rng(0).random((1, 40, 60, 3)) * 255).round() / 255


def encoder(name):
    torch.manual_seed(1)
    if name == "clip":
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**SHAPE, hidden_act="gelu", projection_dim=24)).eval()
    return SiglipVisionModel(SiglipVisionConfig(**SHAPE)).eval()


def saved(module, path):
    values = {key if key.startswith(("vision_model.", "visual_")) else f"vision_model.{key}": each.contiguous()
              for key, each in module.state_dict().items()}  # fmt: skip
    save_file({**values, "vision_model.embeddings.position_ids": torch.arange(17)[None]}, path)
    return path


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_an_encoder_sees_what_that_of_transformers_sees(name, crop, tmp_path):
    module = encoder(name)
    seen = load_vision(saved(module, tmp_path / "x.safetensors")).encode(torch.from_numpy(PIXELS).float(), crop)
    size = {"shortest_edge": 28} if crop == "center" else {"height": 28, "width": 28}
    plain = {} if name == "clip" else {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = CLIPImageProcessor(size=size, crop_size=28, do_center_crop=crop == "center", **plain)
    image = Image.fromarray((PIXELS[0] * 255).round().astype(np.uint8))
    with torch.no_grad():
        theirs = module(**processor(image, return_tensors="pt"), output_hidden_states=True)
    whole = theirs.image_embeds if name == "clip" else theirs.pooler_output
    pairs = [(seen.last_hidden_state, theirs.last_hidden_state), (seen.image_embeds, whole)]
    pairs += [(seen.penultimate_hidden_states, theirs.hidden_states[-2])]
    for ours, expected in pairs:  # Pillow's bicubic filter rounds to 8 bits in between
        assert ours.shape == expected.shape and (ours - expected).norm() < 0.03 * expected.norm()


def test_redux_gives_diffusers_tokens_after_those_of_the_prompt(tmp_path):
    torch.manual_seed(2)
    redux = ReduxImageEncoder(redux_dim=32, txt_in_features=20)
    for folder in ("vision", "style"):
        (tmp_path / folder).mkdir()
    saved(encoder("siglip"), tmp_path / "vision" / "v.safetensors")
    save_file(redux.state_dict(), tmp_path / "style" / "s.safetensors")
    context = Context(Folders({"clip_vision": [tmp_path / "vision"], "style_models": [tmp_path / "style"]}))
    images = torch.rand(2, 28, 28, 3)
    seen = clip_vision_encode(clip_vision_loader("v.safetensors", context), images, "center")
    with torch.no_grad():
        theirs = redux(seen.last_hidden_state).image_embeds
    style, text = style_model_loader("s.safetensors", context), torch.rand(1, 5, 20)
    [(tokens, about)] = style_model_apply([(text, {"guidance": 3.5})], style, seen, 0.5, strength_type="multiply")
    assert about == {"guidance": 3.5} and tokens[:, :5].equal(text)
    assert torch.allclose(tokens[0, 5:].unflatten(0, (2, -1)), 0.5 * theirs, atol=1e-6)
    with pytest.raises(ValueError, match="attn_bias is not supported"):
        style_model_apply([(text, {})], style, seen, 0.5, strength_type="attn_bias")
    other = clip_vision_encode(load_vision(saved(encoder("clip"), tmp_path / "c.safetensors")), images, "none")
    assert style_model_apply([(text, {})], style, other, strength_type="multiply")[0][0].shape == (1, 5 + 2 * 17, 20)


def test_other_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="transformers' layout is supported"):
        load_vision(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="has no redux_up.weight: of style models, Flux Redux is supported"):
        load_style(tmp_path / "x.safetensors")
