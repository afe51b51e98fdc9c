"""Every node that makes a sampler, a schedule or another model works as it stands in the menu, with its defaults."""

import pytest
import torch

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.nodes.custom_sampling import cfg_guider, random_noise, sampler_custom_advanced
from sigmafield.comfyui.nodes.ksampler import ksampler
from sigmafield.comfyui.nodes.loaders import checkpoint_loader_simple
from sigmafield.comfyui.nodes.prompts import clip_text_encode
from small_network import few_channels

pytestmark = pytest.mark.typed_elsewhere

NODES = all_nodes()
ELSEWHERE = {
    "SkipLayerGuidanceSD3": "skips no blocks|transformer",
    "SkipLayerGuidanceDiT": "transformer",
    "SkipLayerGuidanceDiTSimple": "transformer",
    "ModelSamplingSD3": "rectified flow",
    "ModelSamplingAuraFlow": "rectified flow",
    "ModelSamplingFlux": "timestep input is σ",
    "HyperTile": "no self-attention at a depth",
    "TomePatchModel": "no self-attention at a map",
}
"""What nodes for networks of other kinds say about the shipped one."""


def made_from(kind):
    """Classes with one output of a type whose inputs are widgets, and a model."""
    return [
        name
        for name, each in sorted(NODES.items())
        if [output.type for output in each.outputs] == [kind]
        and all(slot.type in ("MODEL", "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") for slot in each.inputs)
        and not any(slot.choices is not None and slot.choices.files for slot in each.inputs)
    ]


@pytest.fixture(scope="module")
def tiny():
    with few_channels():
        model, clip, _ = checkpoint_loader_simple("tiny")
    return model, clip_text_encode("a red heart", clip), clip_text_encode("", clip)


def called(name, model):
    """The node's value with its defaults, and the first choices."""
    inputs = {}
    for slot in NODES[name].inputs:
        options = slot.described(Folders())
        first = options.get("options", [False])[0]
        inputs[slot.name] = model if slot.type == "MODEL" else options.get("default", first)
    return NODES[name].call(inputs, Context()).values[0]


@pytest.mark.parametrize("name", made_from("SAMPLER"))
def test_samplers(name, tiny):
    model, positive, negative = tiny
    sampler = called(name, model)
    latent, sigmas = {"samples": torch.zeros(1, 4, 4, 4)}, torch.tensor([1.0, 0.5, 0.0])  # near enough to adapt soon
    out, _ = sampler_custom_advanced(random_noise(1), cfg_guider(model, positive, negative), sampler, sigmas, latent)
    assert out["samples"].isfinite().all() and out["samples"].any()


@pytest.mark.parametrize("name", made_from("SIGMAS"))
def test_schedules(name, tiny):
    sigmas = called(name, tiny[0])
    assert sigmas.ndim == 1 and (sigmas.diff() <= 0).all() and len(sigmas) > 1


@pytest.mark.parametrize("name", made_from("MODEL"))
def test_models(name, tiny):
    model, positive, negative = tiny
    if name in ELSEWHERE:
        with pytest.raises(ValueError, match=ELSEWHERE[name]):
            called(name, model)
        return
    made = called(name, model)
    assert (isinstance(made, NodeModel) and made is not tiny) or name == "ModelAttentionBackend"
    out = ksampler(
        made, 1, 1, 3.0, sampler_name="euler", scheduler="normal", positive=positive, negative=negative,
        latent_image={"samples": torch.zeros(1, 4, 16, 16)},
    )  # fmt: skip
    assert out["samples"].isfinite().all()
