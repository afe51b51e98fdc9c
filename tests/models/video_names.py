"""The weights of LTX-Video and HunyuanVideo under the names that their authors gave them."""

from __future__ import annotations

import re
from typing import Any

from recent_names import in_published_names
from torch import Tensor, nn


def published(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a network with the names that its authors gave them, without ComfyUI's spellings."""
    return {k: v for k, v in in_published_names(network).items() if not re.search(r"(img|txt)_attn\.", k)}


def ltx_vae_name(name: str) -> str:
    """A name of diffusers' class in LTX-Video's files since 0.9.5."""
    name = re.sub(r"^latents_(mean|std)$", r"per_channel_statistics.\1-of-means", name)
    name = re.sub(r"^decoder\.(time_embedder|scale_shift_table)", r"decoder.last_\1", name)
    blocks = {
        r"encoder\.down_blocks\.(\d)\.resnets": lambda n: f"encoder.down_blocks.{2 * n}.resnets",
        r"encoder\.down_blocks\.(\d)\.downsamplers\.0": lambda n: f"encoder.down_blocks.{2 * n + 1}",
        r"encoder\.(mid)_block": lambda n: "encoder.down_blocks.8",
        r"decoder\.up_blocks\.(\d)\.upsamplers\.0": lambda n: f"decoder.up_blocks.{2 * n + 1}",
        r"decoder\.up_blocks\.(\d)\.(?=resnets|time)": lambda n: f"decoder.up_blocks.{2 * n + 2}.",
        r"decoder\.(mid)_block": lambda n: "decoder.up_blocks.0",
    }
    for pattern, made in blocks.items():
        found = re.match(pattern, name)
        if found:
            name = made(int(found[1]) if found[1].isdigit() else 0) + name[found.end() :]
            break
    return name.replace(".resnets.", ".res_blocks.")


def ltx_checkpoint(pipe: Any) -> dict[str, Tensor]:
    """The file of a pipeline of LTX-Video: network and VAE."""
    network = {f"model.diffusion_model.{k}": v for k, v in published(pipe.transformer).items()}
    return network | {f"vae.{ltx_vae_name(k)}": v for k, v in pipe.vae.state_dict().items()}
