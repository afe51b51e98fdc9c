"""Shared by the transformers of diffusers: checks of the config, the plain network, the pipeline of a flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusion_model import DiffusionModel, Forward
from sigmafield.models.scheduler_config import flow_sampling_of, shift_by_size
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat


def checked(source: Source, kind: str, **supported: Any) -> dict[str, Any]:
    """Reads the transformer's config; raises ValueError for values other than the supported one, or one of a tuple."""
    config = source.config("transformer", kind)
    for key, value in supported.items():
        values = value if isinstance(value, tuple) else (value,)
        if config.get(key) not in values:
            folder, known = source.where.path / "transformer", ", ".join(map(repr, values))
            raise ValueError(f"{folder}: config: {key} = {config.get(key)!r} is not supported; supported: {known}")
    return config


def plain(transformer: Any, x: Tensor, t: Tensor, cond: Cond, **more: Any) -> Tensor:
    """The network of a transformer that takes latents as they are: inputs in its dtype, the answer in float32.

    Args:
        transformer: The module.
        x: Noisy latents.
        t: Timestep of each row.
        cond: The conditioning, one row per latent.
        more: Further arguments of the module's call.
    """
    fits(x, patch_of(transformer.config))
    x = x if cond.concat is None else torch.cat([x, cond.concat.to(x)], dim=1)
    text, extra = cond.embeds.to(transformer.dtype), in_dtype(cond, transformer)
    return transformer(x.to(transformer.dtype), timestep=t, encoder_hidden_states=text, **extra, **more).sample.float()


def patch_of(config: Any) -> int:
    """Side of a transformer's patches in latent positions; for videos, in a frame."""
    size = config["patch_size"]
    return size if isinstance(size, int) else size[-1]


def in_dtype(cond: Cond, transformer: Any) -> dict[str, Tensor]:
    """Converts a conditioning's extra inputs to the network's dtype, except masks and other integers."""
    return {name: t.to(transformer.dtype) if t.is_floating_point() else t for name, t in cond.extra.items()}


def fits(x: Tensor, patch: int) -> None:
    """Raises ValueError for latents whose sides the network's patches do not divide."""
    height, width = x.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"latents must have sides that are multiples of {patch}, the patches'; got {height}x{width}")


def assemble(
    source: Source,
    family: Family,
    forward: Forward,
    module: Any,
    latent: LatentFormat,
    text: TextEncoder,
    vae: Vae,
    patch: int,
    size: tuple[int, int],
    **settings: Any,
) -> Pipeline:
    """Builds the pipeline of a rectified flow.

    Args:
        source: Where the model comes from; its scheduler's config says the shift of the noise levels.
        family: The network's family.
        forward: The raw network as a function of its module.
        module: The module.
        latent: Format of the latents.
        text: The text encoder.
        vae: The VAE.
        patch: Side of the network's patches in latent positions.
        size: Height and width in pixels that the network was trained for.
        settings: Further fields of `DiffusionModel`; with `sampling`, the scheduler's config does not matter.
    """
    model = DiffusionModel(
        source.name,
        forward,
        latent=latent,
        size=size,
        module=module,
        part="transformer",
        family=family,
        schedule=family.schedule,
        patch=patch,
        device=source.device,
        **({} if "sampling" in settings else levels(source, family, patch * latent.factor)),
        **settings,
    )
    return Pipeline(model, text, vae)


def levels(source: Source, family: Family, pixels: int) -> dict[str, Any]:
    """The fields of `DiffusionModel` that the scheduler's config says; a token is `pixels` wide."""
    config = source.where.scheduler()
    by_size = shift_by_size(config)
    shift_at = by_size and (lambda size: by_size(size[0] * size[1] / pixels**2))
    return {"sampling": flow_sampling_of(config, family.multiplier), "shift_at": shift_at}
