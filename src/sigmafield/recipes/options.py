"""What a recipe may say, in groups: each option is declared once, here.

The command line's options, a recipe's JSON, the HTTP schema, node inputs and the tables of the documentation all follow
from these classes: type, default and range from the annotation, the sentence from `Args:`. `Recipe` is all groups
together; `MachineOptions` is what its model runs on, which is not part of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import NonNegative, Positive, settle
from sigmafield.models.lora.strengths import Strengths
from sigmafield.recipes.in_memory import ImageSource, image_source

AUTO = "auto"
"""The denoise map that is made from the image itself: much detail, much change."""

Pixels = Annotated[int | None, Range(1)]
Kind = Literal["mixture", "multidiffusion", "spot"]
VaeMode = Literal["exact", "pooled", "estimated", "estimated_start"]


@dataclass(frozen=True)
class Tiling:
    """A large image is shown to the network in tiles.

    Args:
        kind: How tiles become one image: blended by a Gaussian (Mixture of Diffusers), by their mean
            (MultiDiffusion), or disjoint and shifted at each step (SpotDiffusion).
        tile: Side of a tile in pixels; None is the size that the model was trained for.
        overlap: Pixels that neighbouring tiles share, at least 4 latent positions less than the tile; None is a quarter
            of the tile, and 0 for spot.
        batch: Tiles in one network call.
        scope: Guidance of the whole canvas, or of each tile alone.
        levels: With a denoise map: every noise level is evaluated exactly, or each tile once, at the median level of
            its core, which is approximate.
        vae_tile: Side in pixels that the VAE works on at once; 0 is the whole image, None 64 latent positions.
        vae_mode: How the VAE works on parts of an image: exact, whose result is that of the whole image; pooled or
            estimated, in tiles, for less memory on very large images, with other colours.

    Raises:
        ValueError: A value is out of range, the overlap is not below the tile, or scope "tile" goes with spot.
    """

    kind: Kind = "mixture"
    tile: Pixels = None
    overlap: Annotated[int | None, Range(0)] = None
    batch: Annotated[int, Range(1)] = 4
    scope: Literal["canvas", "tile"] = "canvas"
    levels: Literal["exact", "per_tile"] = "exact"
    vae_tile: Annotated[int | None, Range(0)] = None
    vae_mode: VaeMode = "exact"

    def __post_init__(self) -> None:
        settle(self, "tiling")
        if self.overlap and self.tile and self.overlap >= self.tile:
            raise ValueError(f"tiling needs overlap below tile = {self.tile}; got {self.overlap}")
        if self.scope == "tile" and self.kind == "spot":
            raise ValueError("tiling scope 'tile' needs tiles that do not move: use kind mixture or multidiffusion")
        if self.levels == "per_tile" and (self.scope == "tile" or self.kind == "spot"):
            raise ValueError("tiling levels 'per_tile' needs kind mixture or multidiffusion, and scope canvas")


@dataclass(frozen=True)
class Detail:
    """The quadtree of the denoise map "auto": small boxes where the image has much detail.

    Args:
        threshold: Content above which a box is split.
        depth: How often a box may be split.
        smallest: Smallest side of a box in pixels; None is a quarter of the tile.
        content: How the content of a box is measured.

    Raises:
        ValueError: A value is out of range.
    """

    threshold: NonNegative = 0.03
    depth: Annotated[int, Range(0)] = 4
    smallest: Pixels = None
    content: Literal["colour_distance", "mean_deviation", "deviation_255", "edges"] = "colour_distance"

    def __post_init__(self) -> None:
        settle(self, "detail")


@dataclass(frozen=True)
class DemoFusion:
    """An image is drawn at one size, then at 2, 3, … times that size, each phase guided by the one before.

    Args:
        scale: Sides of the last phase, as a multiple of the first's.
        stride: Latent positions between two windows, at most the model's own size; None is half of that.
        cosine_scale_1: Exponent α₁ of the skip residual's weight κ^α₁; large values free a phase from the one before.
        cosine_scale_2: Exponent α₂ of the dilated views' weight κ^α₂; with large values the windows soon act alone.
        cosine_scale_3: Exponent α₃ of the views' blur, sigma (0.99 κ^α₃ + 0.01) latent positions.
        sigma: Largest blur of the dilated views, in latent positions.
        batch: Windows or views in one network call.
        vae_tile: Side in pixels that the VAE works on at once; 0 is the whole image, None 64 latent positions.
        vae_mode: How the VAE works on parts of an image: exact, whose result is that of the whole image; pooled or
            estimated, in tiles, for less memory on very large images, with other colours.

    Raises:
        ValueError: A value is out of range.

    Du et al., arXiv:2311.16973.
    """

    scale: Annotated[int, Range(1, 64)]
    stride: Annotated[int | None, Range(1)] = None
    cosine_scale_1: NonNegative = 3.0
    cosine_scale_2: NonNegative = 1.0
    cosine_scale_3: NonNegative = 1.0
    sigma: Positive = 1.0
    batch: Annotated[int, Range(1)] = 16
    vae_tile: Annotated[int | None, Range(0)] = None
    vae_mode: VaeMode = "exact"

    def __post_init__(self) -> None:
        settle(self, "demofusion")


@dataclass(frozen=True)
class Region:
    """A prompt for one box of the image.

    Args:
        prompt: What to draw there.
        x: Left edge in pixels.
        y: Top edge in pixels.
        width: Width in pixels.
        height: Height in pixels.
        strength: Weight against the other prompts there.

    Raises:
        ValueError: A value is out of range.
    """

    prompt: str
    x: Annotated[int, Range(0)]
    y: Annotated[int, Range(0)]
    width: Annotated[int, Range(1)]
    height: Annotated[int, Range(1)]
    strength: NonNegative = 1.0

    def __post_init__(self) -> None:
        settle(self, "a region")

    def scaled(self, factor: int) -> Region:
        """The region of an image that is larger by a whole factor."""
        x, y, width, height = (factor * side for side in (self.x, self.y, self.width, self.height))
        return Region(self.prompt, x, y, width, height, self.strength)


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength.

    Args:
        path: The .safetensors file.
        strength: Factor of what it adds to the weights.
        text_strength: Factor of what it adds to the text encoders' weights; None: `strength`.
        sha256: Digest of the file; filled in when the recipe is run, so that a replay recognises the file.

    Raises:
        ValueError: The strength is not a finite number.
    """

    path: str
    strength: float = 1.0
    sha256: str | None = None
    text_strength: float | None = None

    def __post_init__(self) -> None:
        settle(self, "a LoRA")

    @property
    def pair(self) -> tuple[str, Strengths]:
        """Path and strengths, as `load` and `Pipeline.with_loras` take them."""
        text = self.strength if self.text_strength is None else self.text_strength
        return self.path, Strengths(self.strength, text)


@dataclass(frozen=True)
class ControlImage:
    """An image that steers the network, and the ControlNet or T2I-Adapter that reads it.

    Args:
        net: The side network: directory in diffusers' layout, or .safetensors file in a published layout.
        image: The image: its path or, in Python, an image in memory.
        strength: Factor of its effect.
        start: Share of the way through sampling at which it begins to act.
        end: Share of the way through sampling at which it stops acting.
        kind: What the image shows, for a ControlNet that reads several kinds: canny, depth, openpose, …
        image_sha256: Digest of the image; filled in when the recipe is run, so that a replay recognises it.

    Raises:
        ValueError: A value is out of range.
    """

    net: str
    image: ImageSource
    strength: float = 1.0
    start: Annotated[float, Range(0, "end")] = 0.0
    end: Annotated[float, Range("start", 1)] = 1.0
    kind: str | None = None
    image_sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", image_source("a control's image", self.image))
        settle(self, "a control")


@dataclass(frozen=True)
class Reference:
    """An image that an editing network is shown.

    Args:
        image: The image: its path or, in Python, an image in memory.
        image_sha256: Digest of the image; filled in when the recipe is run, so that a replay recognises it.

    Raises:
        ValueError: The image is neither a path nor an image.
    """

    image: ImageSource
    image_sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", image_source("a reference's image", self.image))
        settle(self, "a reference")


@dataclass(frozen=True)
class AdapterImage:
    """An image that the network attends to next to the prompt, and the IP-Adapter that lets it.

    Args:
        net: The IP-Adapter: a .safetensors file.
        encoder: The vision encoder that it was trained with: a .safetensors file in transformers' layout.
        image: The image, of which the middle square is seen: its path or, in Python, an image in memory.
        strength: Factor of its effect.
        start: Share of the way through sampling at which it begins to act.
        end: Share of the way through sampling at which it stops acting.
        layers: First parts of the names of the layers that act, such as up_blocks.0.attentions.1 for the style alone
            of SDXL; empty: all.
        image_sha256: Digest of the image; filled in when the recipe is run, so that a replay recognises it.

    Raises:
        ValueError: A value is out of range.
    """

    net: str
    encoder: str
    image: ImageSource
    strength: float = 1.0
    start: Annotated[float, Range(0, "end")] = 0.0
    end: Annotated[float, Range("start", 1)] = 1.0
    layers: Sequence[str] = ()
    image_sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", image_source("an IP-Adapter's image", self.image))
        settle(self, "an IP-Adapter")


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What a model runs on: the arguments of `load` that are not part of a recipe.

    Args:
        device: cpu, cuda, cuda:1 or mps; None is the best device there is.
        dtype: float32, float16 or bfloat16, of the network; None is the device's usual one.
        offload: Keep parts on the CPU until they are needed.
        compile: Compile the network: the first call is slow, later ones faster.
        max_rows: Rows (images × prompts) in one network call at most, for little memory.
        preview_decoder: A small decoder for previews: AutoencoderTiny's directory or a TAESD file.
    """

    device: str | None = None
    dtype: str | None = None
    offload: bool = False
    compile: bool = False
    max_rows: Annotated[int | None, Range(1)] = None
    preview_decoder: str | None = None

    def __post_init__(self) -> None:
        settle(self, "the machine")

    def load_arguments(self) -> Mapping[str, Any]:
        """These options by the names of `load`'s arguments."""
        return {
            "device": self.device, "dtype": self.dtype, "offload": self.offload, "compile": self.compile,
            "max_rows": self.max_rows, "preview": self.preview_decoder,
        }  # fmt: skip
