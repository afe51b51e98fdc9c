"""Small decoders of latents for previews: TAESD and its relatives, in diffusers' layout or in their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vae import DecoderTiny
from safetensors.torch import load_file
from torch import Tensor

from sigmafield.models.diffusers.source import pretrained
from sigmafield.models.directory import listing, opened, read_json
from sigmafield.parameterization.latent_format import LatentFormat

Preview = Callable[[Tensor], Tensor]


def load_preview(path: Path, latent: LatentFormat, device: torch.device) -> Preview:
    """Loads a small decoder of network latents, in float32.

    Args:
        path: Directory of diffusers' AutoencoderTiny; a decoder's .safetensors in TAESD's own layout; or a folder with
            such files, from which the one named after the format (`taesd_decoder`, `taesdxl_decoder`, …) is taken.
        latent: Format of the latents.
        device: Where the decoder is put.

    Returns:
        The function from network latents to images in [0, 1]; for videos, of the first frame.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the decoder is for other latents or has another layout.
    """
    scale, shift = 1.0, 0.0
    if (path / "config.json").is_file():
        kind = read_json(path / "config.json").get("_class_name")
        if kind != "AutoencoderTiny":
            raise ValueError(f"{path} is a {kind}; supported for previews: AutoencoderTiny")
        tiny = pretrained(AutoencoderTiny, path, torch.float32)
        decoder, scale, shift = tiny.decoder, float(tiny.config.scaling_factor), float(tiny.config.shift_factor or 0)
    else:
        decoder = from_file(opened(file_in(path, latent)))
    channels = decoder.layers[0].in_channels
    if channels != latent.channels:
        raise ValueError(f"{path} decodes latents of {channels} channels; the model's have {latent.channels}")
    decoder = decoder.to(device).eval().requires_grad_(False)

    def preview(x: Tensor) -> Tensor:
        x = x[:, :, 0] if x.ndim == 5 else x  # a video's first frame
        return (decoder(x.to(device, torch.float32) / scale + shift) / 2 + 0.5).clamp(0, 1)

    return preview


def file_in(path: Path, latent: LatentFormat) -> Path:
    """Finds the decoder's file: the path itself, or the file of a folder that is named after the latent format."""
    if path.is_file():
        return path
    found = sorted(path.glob(f"{latent.taesd}*.safetensors")) if latent.taesd else []
    if not found:
        wanted = f"no config.json and no {latent.taesd or 'taesd_decoder'}.safetensors"
        raise FileNotFoundError(f"{path}: {wanted}; {listing(path)}")
    return found[0]


def from_file(path: Path) -> DecoderTiny:
    """Reads TAESD's decoder from a file in its own layout, whose layer 0 clamps, or in diffusers', without that layer.

    https://github.com/madebyollin/taesd.

    Raises:
        ValueError: If the file does not have these weights.
    """
    tensors = load_file(path)
    named = {key.removeprefix("decoder."): value for key, value in tensors.items() if not key.startswith("encoder.")}
    if not any(key.startswith("layers.") for key in named):
        parts = {key: key.partition(".") for key in named}
        named = {
            f"layers.{int(number) - 1}.{rest}" if number.isdecimal() else key: named[key]
            for key, (number, _, rest) in parts.items()
        }
    first = named.get("layers.0.weight")
    channels = first.shape[1] if first is not None and first.ndim == 4 else 4
    decoder = DecoderTiny(channels, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest")
    shapes = {key: value.shape for key, value in decoder.state_dict().items()}
    wrong = {key for key in shapes.keys() | named.keys() if key not in named or shapes.get(key) != named[key].shape}
    if wrong:
        rule = "its weights are not those of a TAESD decoder"
        raise ValueError(f"{path}: {rule} ({len(wrong)} differ, the first is {min(wrong)}); is it an encoder?")
    decoder.load_state_dict(named)
    return decoder
