"""A loaded model: a `Pipeline` holds its diffusion model, its text encoder and its VAE, and exchanges their LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.experts import LOW, Experts
from sigmafield.models.lora.merge import with_changes
from sigmafield.models.lora.read import Lora, notes_of, read_lora, usable
from sigmafield.models.lora.strengths import Loras, Strengths, check_loras, lora_file
from sigmafield.models.text.bundled import Bundled, together
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.vae.vae import Codec, Vae


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
