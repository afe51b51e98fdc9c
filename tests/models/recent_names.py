"""The weights of the recent families' parts under the names that their authors gave them."""

from __future__ import annotations

import re
import struct
from copy import deepcopy

import original_names
import torch
from torch import Tensor, nn

from sigmafield.models.lora.names import published


def in_published_names(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a network with the names that its authors gave them."""
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in state}
    out, used = dict[str, Tensor](), set[str]()
    for old, pieces in published(layers):
        if "processor" in old:
            continue
        for end in (".weight", ".bias", ""):
            names = [f"{piece.layer}{end}" for piece in pieces]
            if all(name in state for name in names):
                parts = [swapped(state[n]) if piece.swapped else state[n] for piece, n in zip(pieces, names)]
                scale = old.endswith(("query_norm", "key_norm"))
                out[f"{old}{'.scale' if scale else end}"] = torch.cat(parts)
                used.update(names)
    others = {of_chroma(name): value for name, value in state.items() if name not in used}
    return out | others


def swapped(value: Tensor) -> Tensor:
    """Shift and scale the other way round."""
    return torch.cat(value.chunk(2)[::-1])


def of_chroma(name: str) -> str:
    """A name in the network that gives Chroma's modulations."""
    if "distilled_guidance" not in name:
        return name
    name = name.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
    return re.sub(r"(norms\.\d+)\.weight", r"\1.scale", name)


def wan_name(name: str, nested: bool = False) -> str:
    """A name of diffusers' class in the layout of Wan's VAE, of three blocks a level; nested: as in Wan 2.2 5B's."""
    for new, old in {
        "post_quant_conv.": "conv2.", "quant_conv.": "conv1.", ".conv_in.": ".conv1.", ".norm_out.": ".head.0.",
        ".conv_out.": ".head.2.", ".mid_block.attentions.0.": ".middle.1.", ".mid_block.resnets.0.": ".middle.0.",
        ".mid_block.resnets.1.": ".middle.2.", ".down_blocks.": ".downsamples.",
    }.items():  # fmt: skip
        name = name.replace(new, old)
    plain = re.match(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.(.+)", name)
    if nested and (found := re.match(r"(..)coder\.(down|up)\w+\.(\d)\.(resnets\.(\d)|\w+sampler)\.(.+)", name)):
        layer = found[5] or {"down": 2, "up": 3}[found[2]]
        name = f"{found[1]}coder.{found[2]}samples.{found[3]}.{found[2]}samples.{layer}.{found[6]}"
    elif plain:
        at = 4 * int(plain[1]) + (3 if plain[2] == "upsamplers" else int(plain[3]))
        name = f"decoder.upsamples.{at}.{plain[4]}"
    if "samples." in name or "middle" in name:
        for new, old in {
            "norm1.": "residual.0.", "norm2.": "residual.3.", "conv_shortcut.": "shortcut.",
        }.items():  # fmt: skip
            name = name.replace(new, old)
        name = re.sub(r"\.conv1\.", ".residual.2.", name)
        name = re.sub(r"\.conv2\.", ".residual.6.", name)
    return name


def flux2_vae(vae: nn.Module) -> dict[str, Tensor]:
    """The weights of Flux 2's VAE."""
    plain, out = deepcopy(vae), {k: v for k, v in vae.state_dict().items() if k.startswith("bn.")}
    del plain.bn
    for name, value in original_names.autoencoder(plain, "").items():
        side = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}.get(name.split(".")[0], "")
        out[side + name] = value
    return out


def spiece(pieces: list[tuple[str, float, int]]) -> bytes:
    """A model of SentencePiece: fields of protocol buffers."""

    def field(number: int, value: bytes | int | float) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        if isinstance(value, float):
            return bytes([number << 3 | 5]) + struct.pack("<f", value)
        head, n = bytes([number << 3 | 2]), len(value)
        return head + (bytes([n]) if n < 128 else bytes([n & 0x7F | 0x80, n >> 7])) + value

    each = (field(1, text.encode()) + field(2, score) + field(3, kind) for text, score, kind in pieces)
    return b"".join(field(1, piece) for piece in each) + field(2, field(3, 1)) + field(3, field(4, 1))
