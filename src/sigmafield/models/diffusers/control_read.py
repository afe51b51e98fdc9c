"""Loads side networks from directories in diffusers' layout and from single files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.models.controlnets.controlnet_z_image import ZImageControlNetModel
from torch import Tensor

from sigmafield.core.conditioning import ControlNetwork
from sigmafield.core.registry import named
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.assemble import assembled
from sigmafield.models.diffusers.control import XL, Adapter, ControlNet, ControlUnion
from sigmafield.models.diffusers.control_names import RENAMED
from sigmafield.models.diffusers.control_transformer import FluxControl, HintLatents, SD3Control, ZImageControl
from sigmafield.models.diffusers.source import pretrained
from sigmafield.models.directory import listing, read_json
from sigmafield.models.single_file.control_shapes import CONFIGS
from sigmafield.models.single_file.controls import FLUX_KINDS, KINDS, SideFile, side_file
from sigmafield.models.single_file.layouts import recognise
from sigmafield.models.single_file.stand_ins import resolved, stand_ins
from sigmafield.models.weights.files import open_weights
from sigmafield.models.weights.packed import Value

CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        ControlNetModel,
        ControlNetUnionModel,
        T2IAdapter,
        FluxControlNetModel,
        SD3ControlNetModel,
        ZImageControlNetModel,
    )
}
"""The side networks that are supported, by their classes' names."""

IMAGE_FACTOR = 8
"""Pixels per latent position of what XLabs' networks read the image with."""


@dataclass(frozen=True)
class Wanted:
    """What a side network is loaded for.

    Args:
        path: Its folder or file.
        kind: Kind of a union's hint.
        pipe: The pipeline that it will steer.
    """

    path: Path
    kind: str | None
    pipe: Pipeline | None


def read_control(
    path: Path, device: torch.device, dtype: torch.dtype, kind: str | None = None, pipe: Pipeline | None = None
) -> ControlNetwork:
    """Loads a ControlNet, union or T2I-Adapter.

    Args:
        path: Folder with config.json and weights, or .safetensors file.
        device: Where it is put.
        dtype: Of its weights.
        kind: Kind of a union's hint.
        pipe: The pipeline that it will steer, whose VAE a ControlNet of a transformer needs.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the network is not supported.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed`", FutureWarning)  # of diffusers about its own class
        module = from_file(path, dtype) if path.is_file() else from_folder(path, dtype)
    return side_network(module.to(device), Wanted(path, kind, pipe))


def from_folder(path: Path, dtype: torch.dtype) -> Any:
    """Loads the module of a side network in diffusers' layout; errors as for `read_control`."""
    if not path.is_dir():
        layouts = "a .safetensors file or a directory in diffusers' layout"
        raise FileNotFoundError(f"{path}: no such file or directory; a ControlNet or T2I-Adapter is {layouts}")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json, so this is not a network of diffusers; {listing(path)}")
    name = read_json(path / "config.json").get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"{path} is a {name}; supported: {', '.join(CLASSES)}")
    return pretrained(CLASSES[name], path, dtype)


def from_file(path: Path, dtype: torch.dtype) -> Any:
    """Loads the module of a side network in a .safetensors file, with a config read off the weights' shapes.

    Raises:
        ValueError: If the file is something else, a weight is missing or unknown, or it is of an unsupported kind.
    """
    side, stored = weights_of(path)
    try:
        values = resolved(RENAMED[side.names](stand_ins(stored)), stored)
        config = CONFIGS[side.kind]({name: tuple(value.shape) for name, value in values.items()})
        if side.kind == "ControlNetModel":  # nothing in the file says so
            config["global_pool_conditions"] = "shuffle" in path.stem.lower()
        return assembled(CLASSES[side.kind], config, values, f"a {side.kind}", dtype)
    except KeyError as error:
        raise ValueError(f"{path}: a {side.kind} without the weight {error}") from None
    except (ValueError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:  # sizes that make no network
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def weights_of(path: Path) -> tuple[SideFile, dict[str, Value]]:
    """Recognises the side network in a file and reads its weights, by their names without a prefix.

    Raises:
        ValueError: If the file is something else; the message says what.
    """
    stored = open_weights([path])
    try:
        side = side_file(stored.shapes)
        if side is None:
            raise ValueError(f"this is not a ControlNet or T2I-Adapter but {what_else(stored.shapes)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    own = [name for name in stored.header if name.startswith(side.prefix)]
    return side, {name.removeprefix(side.prefix): value for name, value in stored.read(own)}


def what_else(shapes: dict[str, tuple[int, ...]]) -> str:
    """What a file without a side network is, for an error."""
    try:
        return f"a {recognise(shapes).family} model"
    except ValueError as error:
        return str(error).removeprefix("no diffusion network found; ").removeprefix("looks like ")


def side_network(module: Any, wanted: Wanted) -> ControlNetwork:
    """Makes the side network of a module; raises ValueError for one that is not supported, or a wrong kind of hint."""
    config, path = module.config, wanted.path
    if isinstance(module, T2IAdapter):
        no_kind(wanted)
        if config.in_channels not in (1, 3):
            raise ValueError(f"{path}: in_channels = {config.in_channels}; supported: 1, 3")
        halves = config.adapter_type == XL  # its first features are for the latent at half its size
        return Adapter(module, config.downscale_factor // (1 + halves))
    if isinstance(module, FluxControlNetModel | SD3ControlNetModel | ZImageControlNetModel):
        return of_transformer(module, wanted)
    factor = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    if isinstance(module, ControlNetUnionModel):
        return ControlUnion(module, factor, index_of(KINDS[: config.num_control_type], wanted))
    no_kind(wanted)
    if config.conditioning_channels != 3:
        raise ValueError(f"{path}: conditioning_channels = {config.conditioning_channels}; supported: 3")
    return ControlNet(module, factor)


def of_transformer(module: Any, wanted: Wanted) -> ControlNetwork:
    """Makes the side network of a transformer, with the VAE of the pipeline that it steers."""
    pipe, path = wanted.pipe, wanted.path
    if pipe is None or pipe.model.controls is None:
        raise ValueError(
            f"{path} is a {type(module).__name__}, which reads latents and adds to the blocks of one network: "
            "pass pipe=PIPELINE to load_control, the one that it will steer"
        )
    transformer, factor, config = pipe.model.module, pipe.model.latent.factor, cast("Any", module.config)
    if isinstance(module, FluxControlNetModel):
        mode = None
        if config.num_mode is None:
            no_kind(wanted)
        else:
            mode = index_of(FLUX_KINDS[: config.num_mode], wanted)
        depths = [len(getattr(transformer, name, ())) for name in ("transformer_blocks", "single_transformer_blocks")]
        factor = factor if module.input_hint_block is None else IMAGE_FACTOR
        net: ControlNetwork = FluxControl(module, factor, HintLatents(pipe.encode), (depths[0], depths[1]), mode)
    elif isinstance(module, ZImageControlNetModel):
        no_kind(wanted)
        net = ZImageControl(module, factor, HintLatents(pipe.encode), len(getattr(transformer, "layers", ())))
        pipe.model.controls(net)
        module.from_transformer(module, transformer)
        # the class asks for it where gradients are recorded, and does not set it
        module.gradient_checkpointing = False  # pyright: ignore[reportArgumentType]: torch's stubs know no such values
        return net
    else:
        no_kind(wanted)
        if config.extra_conditioning_channels:
            raise ValueError(f"{path}: a ControlNet for inpainting, with a mask as a further input, is not supported")
        net = SD3Control(module, factor, HintLatents(sd3_encoder(module, path, pipe)), transformer)
    pipe.model.controls(net)
    return net


def sd3_encoder(module: Any, path: Path, pipe: Pipeline) -> Callable[[Tensor], Tensor]:
    """Makes the function from images to the latents that a ControlNet of Stable Diffusion 3 was trained on.

    They are scaled for the network; InstantX did not shift them. Stability's network for edges was shown values from
    0.5 to 128 instead of −1 to 1, which only its name says.
    """
    if module.config.force_zeros_for_pooled_projection:
        return lambda images: pipe.vae.encode(images) * pipe.model.latent.scale
    if module.pos_embed is None and "canny" in path.name.lower():
        return lambda images: pipe.encode(((images * 127.5 + 0.5) + 1) / 2)
    return pipe.encode


def index_of(known: tuple[str, ...], wanted: Wanted) -> int:
    """Finds a union's index of a kind of hint; raises ValueError where none, or an unknown one, is given."""
    if wanted.kind is None:
        raise ValueError(f"{wanted.path} reads hints of several kinds: say which, one of {', '.join(known)}")
    return named({name: i for i, name in enumerate(known)}, wanted.kind, "kind of hint")


def no_kind(wanted: Wanted) -> None:
    """Raises ValueError for a kind of hint, which a network that is not a union does not take."""
    if wanted.kind is not None:
        raise ValueError(f"{wanted.path} reads hints of one kind only; got kind {wanted.kind!r}, which is for unions")
