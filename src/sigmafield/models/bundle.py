"""A loaded model as three values: the diffusion model, the text encoder and the VAE; `Pipeline` holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.models.diffusion_model import DiffusionModel, Running
from sigmafield.models.experts import LOW, Experts
from sigmafield.models.lora.merge import with_changes
from sigmafield.models.lora.read import Lora, notes_of, read_lora, usable
from sigmafield.models.lora.strengths import Loras, Strengths, check_loras, lora_file
from sigmafield.models.text.bundled import Bundled, together
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.vae.tiled import Collected, tiled_decode, tiled_encode

Codec = Callable[[Tensor], Tensor]


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
        decodes_only: Why images cannot be encoded; None if they can.
        whole: Whether it cannot work in parts, see `tiled`.
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
    decodes_only: str | None = None
    whole: bool = False

    @property
    def in_parts(self) -> bool:
        """Whether it can work band by band or tile by tile."""
        return self.module is not None and self.frame_factor is None and not self.whole

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: [B, 3, H, W] in [0, 1], or [B, 3, frames, H, W] for a VAE of videos, to which an image is a video
                of one frame. Of H and W that are not multiples of `factor` the middle is encoded, as in ComfyUI.

        Returns:
            Latents [B, C, H/factor, W/factor] or [B, C, frames, …] in the VAE's own scale, float32, on the device.

        Raises:
            ValueError: If the shape is wrong, or the VAE has no encoder.
        """
        if self.decodes_only is not None:
            raise ValueError(self.decodes_only)
        video = self.frame_factor is not None
        images = images[:, :, None] if video and images.ndim == 4 else images
        if images.ndim != 4 + video or images.shape[1] != 3 or min(images.shape[-2:]) < self.factor:
            rule = f"must be [B, 3, {'frames, ' * video}H, W] with H and W of at least {self.factor}"
            raise ValueError(f"images {rule}; got shape {tuple(images.shape)}")
        images = whole_positions(images, self.factor)
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

    def tiled(self, tile: int = 64, collected: Collected = "exact") -> Vae:
        """The VAE working in bands or tile by tile, for large images in little memory.

        Args:
            tile: Latent positions along a side that a tile owns, at most; bands are of about as many positions.
            collected: How an image is run; see `models.vae.tiled`.

        Raises:
            ValueError: For a VAE of videos, or of Qwen-Image or Flux 2.
        """
        if not self.in_parts:
            raise ValueError("only a VAE of the kind of Stable Diffusion's and Flux's can work tile by tile")
        pixels = tile * self.factor

        def encoder(images: Tensor) -> Tensor:
            return tiled_encode(self.module, images, pixels, collected=collected)

        def decoder(latents: Tensor) -> Tensor:
            return tiled_decode(self.module, latents, tile, collected=collected)

        return replace(self, encoder=encoder, decoder=decoder)


def whole_positions(images: Tensor, factor: int) -> Tensor:
    """The middle of images or masks [..., H, W] with sides that are multiples of a VAE's factor."""
    for axis in (-2, -1):
        rest = images.shape[axis] % factor
        images = images.narrow(axis, rest // 2, images.shape[axis] - rest)
    return images


def as_it_is(pipe: Pipeline) -> Pipeline:
    """Returns the pipeline unchanged."""
    return pipe


class Unmerged(NamedTuple):
    """What a pipeline with LoRAs is made from.

    Args:
        modules: The modules without LoRAs.
        bundled: The text encoder's textual inversions without those of the LoRAs.
        merged: The modules with LoRAs.
        files: What its LoRAs hold, by their paths.
    """

    modules: Modules
    bundled: Bundled
    merged: Modules
    files: Mapping[str, Lora]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """What `load` gives: the parts of one model on one device. Exchange a part with `dataclasses.replace`.

    Args:
        model: The diffusion model.
        text: The text encoder.
        vae: The VAE.
        small_decoder: Network latents → rough images in [0, 1], for previews; None: see `preview`.
        loras: Paths and strengths of the LoRAs that are in the weights.
        notes: What a user should know about them, one sentence each: what of a file cannot be used.
        unmerged: The modules without LoRAs; None for a pipeline without LoRAs, or one that `load` merged them into.
        arranged: Says how the parts of a pipeline with other modules are made to run, such as one at a time.
        source: The call that makes it again; None where a part was exchanged since.
    """

    model: DiffusionModel
    text: TextEncoder
    vae: Vae
    small_decoder: Codec | None = None
    loras: Sequence[tuple[str, Strengths]] = ()
    notes: Sequence[str] = ()
    unmerged: Unmerged | None = field(default=None, repr=False)
    arranged: Callable[[Pipeline], Pipeline] = field(default=as_it_is, repr=False)
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

    def with_loras(self, loras: Loras, lora_partial: bool = False) -> Pipeline:
        """A pipeline with these LoRAs instead of those of this one, which is left as it is; () for none.

            light = pipe.with_loras({"ink.safetensors": 0.4})
            heavy = light.with_loras({"ink.safetensors": (1.0, 0.0)})   # not in the text encoders

        Layers that a LoRA changes have weights of their own, equal to those that `load(loras=…)` gives; all others are
        shared. Textual inversions in the files are known to prompts of the new pipeline alone. Any number of such
        pipelines can be used at a time. Files of LoRAs that this pipeline has are not read again.

        Args:
            loras: LoRA files by their paths with their strengths, as for `load`.
            lora_partial: As for `load`.

        Raises:
            FileNotFoundError: If a file is missing.
            TypeError: If an entry is not a path with its strength.
            ValueError: If a file does not fit the model, the weights without LoRAs were not kept, or the network is
                compiled or has offloading hooks.
        """
        if self.loras and self.unmerged is None:
            raise ValueError(
                f"{self.model.name} was loaded with LoRAs in its weights: load it without them, then use with_loras"
            )
        base, words, known = self._unmerged()
        pairs = check_loras(loras, known)
        if not pairs:
            return self._on(base, words, (), None, lora_partial)
        files = {path: known.get(path) or read_lora(lora_file(path), base) for path, _ in pairs}
        for file in files.values():
            usable(file, lora_partial)
        own = with_changes(base, [(files[path], strengths) for path, strengths in pairs])
        all_words = together(words, *(file.bundled for file in files.values()))
        return self._on(own, all_words, pairs, Unmerged(base, words, own, files), lora_partial)

    def _unmerged(self) -> tuple[Modules, Bundled, Mapping[str, Lora]]:
        """The modules and textual inversions without LoRAs, and the LoRAs' files that are known to fit them."""
        own = self.adaptable
        if self.unmerged is None:
            return own, self.text.bundled, {}
        kept = {name for name, module in self.unmerged.merged.items() if own.get(name) is module}
        base = {name: self.unmerged.modules[name] if name in kept else own[name] for name in own}
        words = self.unmerged.bundled if kept.issuperset(self.text.modules) else self.text.bundled
        return base, words, self.unmerged.files if kept == set(own) else {}

    def _on(
        self,
        modules: Modules,
        bundled: Bundled,
        loras: Sequence[tuple[str, Strengths]],
        unmerged: Unmerged | None,
        lora_partial: bool,
    ) -> Pipeline:
        """The pipeline on other modules of its network and text encoders, and with other textual inversions."""
        module, both = modules.get(self.model.part), self.model.module
        if isinstance(both, Experts):
            module = Experts(module, modules[LOW], both.boundary)
        model = replace(self.model, module=module)
        text = replace(self.text, modules={name: modules[name] for name in self.text.modules}, bundled=bundled)
        notes = notes_of(unmerged.files.values()) if unmerged else ()
        made = self.arranged(replace(self, model=model, text=text, loras=loras, notes=notes, unmerged=unmerged))
        if self.source is None:
            return made
        files = [(str(Path(path).expanduser().absolute()), strengths) for path, strengths in loras]
        return made.made_by(partial(self.source, loras=files, lora_partial=lora_partial))

    @property
    def adaptable(self) -> Modules:
        """The modules that LoRAs change, by diffusers' names: network and text encoders."""
        module = self.model.module
        if isinstance(module, Experts):
            return {self.model.part: module.high, LOW: module.low, **self.text.modules}
        network = {} if module is None else {self.model.part: module}
        return {**network, **self.text.modules}

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
