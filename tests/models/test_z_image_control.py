"""ControlNets of Z-Image against diffusers' pipeline, from directories and files, and on a model of nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import sigmafield as sf
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes.control_patches import model_patch_loader, z_image_fun_controlnet

pytest.importorskip("diffusers")
SIZE = (16, 24)
KINDS: dict[str, dict[str, Any]] = {
    "first": {"control_in_dim": 16, "add_control_noise_refiner": None},
    "2.0": {"control_in_dim": 33, "add_control_noise_refiner": "control_layers", "control_refiner_layers_places": [0]},
    "2.1": {
        "control_in_dim": 33, "add_control_noise_refiner": "control_noise_refiner",
        "control_refiner_layers_places": [0],
    },
}  # fmt: skip


def net_of(kind: str, **changes: Any) -> Any:
    """A ControlNet of diffusers for the small Z-Image, with random weights."""
    from diffusers import ZImageControlNetModel
    from small_models import randomise

    settings: dict[str, Any] = {
        "control_layers_places": [0],
        "n_refiner_layers": 1,
        "dim": 32,
        "n_heads": 2,
        "n_kv_heads": 2,
    }
    return randomise(ZImageControlNetModel(**settings | KINDS[kind] | changes), 1)


@pytest.fixture
def hint() -> torch.Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_calls_are_those_of_diffusers(kind: str, family: Any, loaded: Any, tmp_path: Path, hint: torch.Tensor) -> None:
    """A directory steers as in diffusers' pipeline: with the latent of the image, and 0 in further channels."""
    from diffusers import ZImageControlNetModel

    ours, pipe, net = loaded("z-image"), family("z-image")[1], net_of(kind)
    net.save_pretrained(tmp_path)
    control = sf.Control(sf.load_control(tmp_path, pipe=ours), hint, 0.7)
    x, t = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.4])
    cond = ours.text.encode(["a red heart"], SIZE)
    got = ours.model.network(x, t, sf.Cond(cond.embeds, cond.extra, controls=[control]))
    texts = [cond.embeds[0, : int(cond.extra["encoder_attention_mask"].sum())]]
    shown = ours.encode(hint)[:, :, None]
    more = shown.new_zeros(1, KINDS[kind]["control_in_dim"] - 16, *shown.shape[2:])
    net = ZImageControlNetModel.from_transformer(net, pipe.transformer)
    added = net([x[0][:, None]], 1 - t, texts, list(torch.cat([shown, more], 1)), conditioning_scale=0.7)
    [want] = pipe.transformer([x[0][:, None]], 1 - t, texts, controlnet_block_samples=added)[0]
    assert_close(got, -want[None, :, 0], atol=1e-5, rtol=1e-5)
    assert (got - ours.model.network(x, t, cond)).abs().max() > 1e-3


def test_files_tell_their_kind(loaded: Any, tmp_path: Path) -> None:
    """Of 30 layers the first version steers every fifth, the later ones every second."""
    first = net_of("first").state_dict()
    for kind, count, step in (("first", 6, 5), ("2.0", 15, 2), ("2.1", 15, 2)):
        given = net_of(kind, control_layers_places=[step * i for i in range(count)])
        unused = {k: v for k, v in first.items() if "noise_refiner" in k and kind == "2.0"}
        values = {name: value.contiguous() for name, value in (given.state_dict() | unused).items()}
        save_file(values, tmp_path / "net.safetensors")
        read = sf.load_control(tmp_path / "net.safetensors", pipe=loaded("z-image")).module  # type: ignore[attr-defined]
        for name in ("control_layers_places", "control_in_dim", "add_control_noise_refiner", "dim", "n_heads"):
            assert read.config[name] == given.config[name], (kind, name)
        own = read.state_dict()
        assert all(torch.equal(own[name], value) for name, value in given.state_dict().items())


def test_a_model_of_nodes_is_steered_in_every_call(loaded: Any, tmp_path: Path, hint: torch.Tensor) -> None:
    ours, net = loaded("z-image"), net_of("first")
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "net.safetensors")
    context = Context(Folders({"model_patches": [tmp_path]}))
    patch, model, image = model_patch_loader("net.safetensors", context), NodeModel(ours.model), hint.movedim(1, -1)
    made = z_image_fun_controlnet(model, patch, ours.vae, 0.7, image)
    x, t, cond = torch.randn(2, 16, 8, 12), torch.full((2,), 0.4), ours.text.encode(["a", "a"], SIZE)
    control = sf.Control(patch.network(ours.model, ours.vae), hint.expand(2, -1, -1, -1), 0.7)
    want = ours.model.network(x, t, sf.Cond(cond.embeds, cond.extra, controls=[control]))
    assert_close(made.network.network(x, t, cond), want, atol=1e-6, rtol=1e-6)
    assert z_image_fun_controlnet(model, patch, ours.vae, 0.0, image) is model
    with pytest.raises(ValueError, match="image is needed"):
        z_image_fun_controlnet(model, patch, ours.vae)
    with pytest.raises(ValueError, match="inpaint_image and mask are not supported"):
        z_image_fun_controlnet(model, patch, ours.vae, 1.0, image, mask=image[..., 0])
    with pytest.raises(ValueError, match="this ZImageControlNetModel is not for a FluxTransformer2DModel"):
        sf.load_control(tmp_path / "net.safetensors", pipe=loaded("flux dev"))
