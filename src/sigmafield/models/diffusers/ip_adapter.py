"""Reads IP-Adapters of Stable Diffusion 1, 2 and XL, and of Flux, from one file. Ye et al., arXiv:2308.06721."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn

from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.ip_adapter import IPAdapter
from sigmafield.models.weights.files import open_weights
from sigmafield.models.weights.undrawn import one_at_a_time

PROJECTIONS = ("image_proj.", "ip_adapter_proj_model.")
"""Prefixes of the weights that make tokens: h94's, XLabs'."""
LAYER = re.compile(
    r"(?:ip_adapter|double_blocks)\.(\d+)\.(?:processor\.)?"
    r"(?:to_([kv])_ip|ip_adapter_double_stream_([kv])_proj)\.(weight|bias)"
)
"""Names of the layers that make keys and values: h94's, XLabs'."""


@one_at_a_time
def read_ip_adapter(path: Path, model: DiffusionModel) -> IPAdapter:
    """The adapter in a file; arguments and errors as for `load_ip_adapter`."""
    weights = open_weights([path])
    found = {name: torch.as_tensor(value) for name, value in weights.read(list(weights.shapes))}
    layers = _layers({m.groups(): each for name, each in found.items() if (m := LAYER.fullmatch(name))})
    projection = {
        name.removeprefix(prefix): each for prefix in PROJECTIONS for name, each in found.items()
        if name.startswith(prefix)
    }  # fmt: skip
    if not layers or not projection:
        raise ValueError(f"{path} is not an IP-Adapter: it has no image_proj and ip_adapter weights")
    if any("lora" in name for name in found) or ("norm.weight" in projection and "proj.0.weight" in projection):
        raise ValueError(f"{path} is an IP-Adapter of FaceID, which needs a face recogniser and is not supported")
    module, device = model.patchable(), model.device
    dtype = cast(Any, module).dtype
    names = attentions_of(module)
    _check(path, model, names, layers)
    return IPAdapter(
        model.name,
        names,
        tokens_of(projection).to(device, dtype).eval().requires_grad_(False),
        "proj.weight" in projection,
        [(keys.to(device, dtype), values.to(device, dtype)) for keys, values in layers],
    )


def attentions_of(module: Any) -> list[str]:
    """Names of what attends to a prompt: a UNet's cross-attentions, in diffusers' order, or Flux's joint blocks."""
    if type(module).__name__ == "FluxTransformer2DModel":
        return [f"transformer_blocks.{i}" for i in range(len(module.transformer_blocks))]
    return [name for name, _ in module.named_modules() if name.endswith(".attn2")]


def _layers(found: Mapping[tuple[Any, ...], Tensor]) -> list[tuple[nn.Linear, nn.Linear]]:
    """Keys and values of each layer, in the order of the numbers in their names."""
    out = list[tuple[nn.Linear, nn.Linear]]()
    for number in sorted({int(key[0]) for key in found}):
        pair = dict[str, dict[str, Tensor]]()
        for (n, a, b, part), value in found.items():
            if int(n) == number:
                pair.setdefault(a or b, {})[part] = value
        if set(pair) == {"k", "v"} and all("weight" in each for each in pair.values()):
            out.append((_linear(pair["k"]), _linear(pair["v"])))
    return out


def _linear(values: Mapping[str, Tensor]) -> nn.Linear:
    width, dim = values["weight"].shape
    with torch.device("meta"):
        made = nn.Linear(dim, width, bias="bias" in values)
    made.load_state_dict(values, assign=True)
    return made.requires_grad_(False)


def tokens_of(values: Mapping[str, Tensor]) -> nn.Module:
    """The module that makes tokens: a projection of the whole image (plain), or a resampler of its tokens (plus)."""
    if "proj.weight" not in values:
        convert: Any = UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers
        return convert(None, dict(values), low_cpu_mem_usage=False)
    dim = len(values["norm.weight"])
    wide, seen = values["proj.weight"].shape
    made = ImageProjection(seen, dim, wide // dim)
    made.load_state_dict({name.replace("proj", "image_embeds"): value for name, value in values.items()})
    return made


def _check(path: Path, model: DiffusionModel, names: list[str], layers: list[tuple[nn.Linear, nn.Linear]]) -> None:
    """Raise ValueError for an adapter that was made for another network."""
    module = model.patchable()
    parts = [cast(Any, module.get_submodule(name)) for name in names]
    widths = [getattr(part, "attn", part).to_q.out_features for part in parts]
    theirs = [keys.out_features for keys, _ in layers]
    if widths != theirs:
        what = f"{len(theirs)} layers of widths {sorted(set(theirs))}"
        ours = f"{len(widths)} attentions of widths {sorted(set(widths))}"
        raise ValueError(f"{path} is for another network than {model.name}: it has {what}, the network {ours}")
    config = cast(Any, module).config
    dim = config.get("joint_attention_dim") or config.get("cross_attention_dim")
    if any(keys.in_features != dim or values.in_features != dim for keys, values in layers):
        theirs = sorted({part.in_features for pair in layers for part in pair})
        raise ValueError(
            f"{path} is for another network than {model.name}: its tokens are of width {', '.join(map(str, theirs))}, "
            f"those of the network's prompts of {dim}"
        )
