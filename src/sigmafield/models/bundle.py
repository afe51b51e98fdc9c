"""A loaded model as three values: the diffusion model, the text encoder and the VAE; `Pipeline` holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusion_model import DiffusionModel, Running
from sigmafield.models.vae.tiled import Collected, tiled_decode, tiled_encode

Codec = Callable[[Tensor], Tensor]


@runtime_checkable
class EncodeText(Protocol):
    """(prompts, (height, width) in pixels, CLIP layer) → conditioning with one row per prompt."""

    def __call__(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond: ...


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Reads prompts.

    Args:
        positive: Encodes prompts.
        negative: Encodes negative prompts, for models that read them in another way; None: as `positive` does.
        modules: The torch modules by diffusers' names: text_encoder, text_encoder_2, ….
        running: Makes the context in which the modules are called.
    """

    positive: EncodeText
    negative: EncodeText | None = None
    modules: Mapping[str, Any] = field(default_factory=dict, repr=False)
    running: Running = nullcontext

    def encode(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        """Encodes prompts.

        Args:
            prompts: The texts, with weights in ComfyUI's notation.
            size: Height and width in pixels of the image, which some models are conditioned on.
            clip_skip: CLIP's layer to take hidden states from: -1 = the last, -2 the one before; None: as trained.

        Returns:
            A conditioning with one row per prompt.
        """
        with self.running():
            return self.positive(prompts, size, clip_skip)

    def encode_negative(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        """Encodes negative prompts; arguments as for `encode`."""
        with self.running():
            return (self.negative or self.positive)(prompts, size, clip_skip)


@dataclass(frozen=True, eq=False)
class Vae:
    """Maps images to latents in the VAE's own scale, and back; `LatentFormat.to_network` leads to the network's.

    Args:
        encoder: Images in [−1, 1] → means of latents, in the module's dtype.
        decoder: Latents → images in [−1, 1], in the module's dtype.
        channels: Channels of the latents.
        factor: Image pixels per latent position along a side.
        frame_factor: Frames per latent frame of a video, after the first; None for a VAE of images.
        device: Where the module is, or is brought to.
        dtype: The module's dtype.
        module: The torch module; None where there is not one.
        cheap: Whether decoding is cheap enough for a preview of every step.
        running: Makes the context in which the module is called.
    """

    encoder: Codec
    decoder: Codec
    channels: int = 4
    factor: int = 8
    frame_factor: int | None = None
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    module: Any = field(default=None, repr=False)
    cheap: bool = False
    running: Running = nullcontext

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: [B, 3, H, W] in [0, 1], or [B, 3, frames, H, W] for a VAE of videos, to which an image is a video
                of one frame; H and W are multiples of `factor`.

        Returns:
            Latents [B, C, H/factor, W/factor] or [B, C, frames, …] in the VAE's own scale, float32, on the device.

        Raises:
            ValueError: If the shape is wrong.
        """
        video = self.frame_factor is not None
        images = images[:, :, None] if video and images.ndim == 4 else images
        if images.ndim != 4 + video or images.shape[1] != 3 or any(s % self.factor for s in images.shape[-2:]):
            rule = f"must be [B, 3, {'frames, ' * video}H, W] with H and W multiples of {self.factor}"
            raise ValueError(f"images {rule}; got shape {tuple(images.shape)}")
        if self.frame_factor and (images.shape[2] - 1) % self.frame_factor:
            raise ValueError(f"frames must be 1 more than a multiple of {self.frame_factor}; got {images.shape[2]}")
        with self.running():
            return self.encoder(images.to(self.device, self.dtype) * 2 - 1).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents in the VAE's own scale to images in [0, 1], float32; raises ValueError for a wrong shape."""
        video = self.frame_factor is not None
        if latents.ndim != 4 + video or latents.shape[1] != self.channels:
            shape = f"[B, {self.channels}, {'frames, ' * video}h, w]"
            raise ValueError(f"latents must be {shape}; got shape {tuple(latents.shape)}")
        with self.running():
            return (self.decoder(latents.to(self.device, self.dtype)).float() / 2 + 0.5).clamp(0, 1)

    def tiled(self, tile: int = 64, collected: Collected = "estimated") -> Vae:
        """The VAE working tile by tile, for large images in little memory.

        Args:
            tile: Latent positions along a side that a tile owns, at most.
            collected: Where the group norms' statistics come from; see `models.vae.tiled`.

        Raises:
            ValueError: For a VAE of videos.
        """
        if self.module is None or self.frame_factor is not None:
            raise ValueError("only a VAE of images that is a torch module can work tile by tile")
        pixels = tile * self.factor

        @torch.no_grad()
        def encoder(images: Tensor) -> Tensor:
            return tiled_encode(self.module, images, pixels, collected=collected)

        @torch.no_grad()
        def decoder(latents: Tensor) -> Tensor:
            return tiled_decode(self.module, latents, tile, collected=collected)

        return replace(self, encoder=encoder, decoder=decoder)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """What `load` gives: the parts of one model on one device. Exchange a part with `dataclasses.replace`.

    Args:
        model: The diffusion model.
        text: The text encoder.
        vae: The VAE.
        small_decoder: Network latents → rough images in [0, 1], for previews; None: see `preview`.
        loras: Paths and strengths of the LoRAs that are merged into the weights.
        source: The call that makes it again; None where a part was exchanged since.
    """

    model: DiffusionModel
    text: TextEncoder
    vae: Vae
    small_decoder: Codec | None = None
    loras: Sequence[tuple[str, float]] = ()
    source: partial[Pipeline] | None = field(default=None, init=False, repr=False)

    def made_by(self, source: partial[Pipeline]) -> Pipeline:
        """The same, with the call that makes it again in another process."""
        made = replace(self)
        object.__setattr__(made, "source", source)
        return made

    def __reduce__(self) -> tuple[partial[Pipeline], tuple[()]]:
        """What is pickled: the call that made it, not the weights. TypeError where a part was exchanged since."""
        if self.source is None:
            raise TypeError(
                "a model that was changed after sf.load cannot be sent to another process: send the arguments of "
                "sf.load, and change it there"
            )
        return self.source, ()

    def encode(self, images: Tensor) -> Latent:
        """Encodes images in [0, 1] to latents in the network's scale; shapes and errors as for `Vae.encode`."""
        return self.model.latent.to_network(self.vae.encode(images))

    def decode(self, latents: Latent) -> Tensor:
        """Decodes latents in the network's scale to images in [0, 1], float32.

        Raises:
            ValueError: If the shape is not that of the model's latents.
        """
        self.model.latent.check(latents)
        return self.vae.decode(self.model.latent.to_vae(latents.to(self.vae.device, torch.float32)))

    @property
    def preview(self) -> Codec | None:
        """Network latents → rough images in [0, 1], cheap enough for every step; None where there is nothing cheap.

        The small decoder, or the VAE where it is cheap, or the latent format's linear map.
        """
        if self.small_decoder is not None:
            return self.small_decoder
        if self.vae.cheap:
            return self.decode
        return self.model.latent.to_rgb if self.model.latent.rgb else None

    @property
    def modules(self) -> dict[str, Any]:
        """The torch modules by diffusers' names: unet or transformer, vae, text_encoder, …."""
        own = {self.model.part: self.model.module, "vae": self.vae.module, **self.text.modules}
        return {name: module for name, module in own.items() if module is not None}

    @property
    def device(self) -> torch.device:
        """The device that latents are on."""
        return self.model.device
