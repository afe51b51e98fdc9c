"""What a checkpoint was trained for, from its configs and its row in the table of families."""

from __future__ import annotations

from dataclasses import replace

from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat, latent_format, recognised


def latent_of(family: Family, config: LatentFormat) -> LatentFormat:
    """Chooses the format of a model's latents.

    Args:
        family: The network's family.
        config: Format that the VAE's own config describes.

    Returns:
        The family's format with the config's factors and axes if their numbers agree. Otherwise the config's: a VAE of
        another family, or one whose numbers are in no table.
    """
    known = latent_format(family.latent_format)
    if known.same_numbers(config):
        return replace(known, factor=config.factor, axes=config.axes, frame_factor=config.frame_factor)
    return recognised(config)


def trained_size(sample_size: int | tuple[int, ...] | list[int] | None, factor: int, default: int) -> tuple[int, int]:
    """Height and width in pixels that a network was trained for.

    Args:
        sample_size: Side of the latent in a network's config, or two; None: not said.
        factor: Image pixels per latent position.
        default: Side of the latent where the config does not say.
    """
    size = sample_size or default
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor
