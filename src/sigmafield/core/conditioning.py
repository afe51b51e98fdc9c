"""Conditionings: what a network is given as well as x, and where and when it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from sigmafield.core.geometry import Box
from sigmafield.core.time_windows import TimeWindow


@dataclass(frozen=True)
class Area:
    """The part of the latent that a conditioning acts in, as people say it: `box` makes it a `Box`.

    Args:
        size: Along each axis of space: (height, width), or with frames in front.
        offset: The first position along each axis.
        relative: In shares of the latent's sides, 0 … 1, instead of latent positions.

    Raises:
        ValueError: The two have different lengths.
    """

    size: tuple[int | float, ...]
    offset: tuple[int | float, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != len(self.offset):
            raise ValueError(f"size and offset must have an entry for each axis; got {self.size} and {self.offset}")

    def box(self, space: Sequence[int]) -> Box:
        """The box in a latent with these sides; it may reach beyond the latent."""
        n, axes = len(space), space[-len(self.size) :]
        if self.relative:
            size = [max(1, round(share * side)) for share, side in zip(self.size, axes)]
            return Box.at([round(share * side) for share, side in zip(self.offset, axes)], size).spanning(space)
        return Box.at([int(o) for o in self.offset[:n]], [int(s) for s in self.size[:n]]).spanning(space)


Crop = Literal["fit", "along"]
"""What part of a control's image a conditioning with an area is shown."""


class Residuals(NamedTuple):
    """What a control adds inside a network: empty, or None, where it adds nothing.

    Of a UNet: skips: to each skip connection of the way down; middle: after the middle block; blocks: within each down
    block. Of a transformer: blocks: after each block, of Flux each joint one, a single 0 where nothing is added;
    singles: after each of Flux's single blocks.
    """

    skips: Sequence[Tensor] = ()
    middle: Tensor | None = None
    blocks: Sequence[Tensor] = ()
    singles: Sequence[Tensor] = ()


@runtime_checkable
class ControlNetwork(Protocol):
    """A side network that reads an image: what a `Control` holds; `load_control` gives one."""

    @property
    def factor(self) -> int:
        """Pixels of the hint along a side for each latent position."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float, /) -> Residuals:
        """From the network's own inputs and the hint [B, 3, factor · height, factor · width], times the strength."""
        ...


@dataclass(frozen=True)
class Control:
    """An image that steers the network, by a side network that reads it. ControlNet, arXiv:2302.05543.

    Args:
        net: The side network.
        hint: The image [B or 1, 3, height, width] in [0, 1]; an image of another size is cut to the latent's
            proportions and resized.
        strength: Factor of what is added; 0 adds nothing.
        window: Shares of the way through sampling between which it acts.
        crop: What a conditioning with an area is shown: "fit", the whole image, cut to the area's proportions and
            resized to it, as in ComfyUI; "along", the part of the image, made to fit the whole latent, where the area
            is.

    Raises:
        ValueError: The hint has another shape.
    """

    net: ControlNetwork
    hint: Tensor
    strength: float = 1.0
    window: TimeWindow = (None, None)
    crop: Crop = "fit"

    def __post_init__(self) -> None:
        if self.hint.ndim != 4 or self.hint.shape[1] != 3:
            raise ValueError(f"a control's hint must be [B, 3, height, width]; got shape {tuple(self.hint.shape)}")


@runtime_checkable
class ImageAdapter(Protocol):
    """Layers that let a network attend to the tokens of an image: what an `ImagePrompt` holds."""

    @property
    def layers(self) -> Sequence[str]:
        """The network's attentions that have such a layer, by their names in the network's module."""
        ...

    def keys_and_values(self, layer: int, tokens: Tensor, /) -> tuple[Tensor, Tensor]:
        """What the queries of an attention are shown of tokens [B, tokens, dim]: keys and values [B, tokens, width]."""
        ...


@dataclass(frozen=True)
class ImagePrompt:
    """An image that a network attends to next to its prompt: a' = a + w m softmax(q kᵀ) v for each attention a.

    The network's own queries q meet keys and values of the image's tokens. IP-Adapter, arXiv:2308.06721.

    Args:
        adapter: The layers that make keys and values.
        tokens: Tokens of the image [B or 1, tokens, dim].
        weights: w of each of the adapter's layers, in their order.
        mask: m, where it acts: [M, *space] or [*space] at any resolution, for M samples; None: everywhere.
        window: Shares of the way through sampling between which it acts.

    Raises:
        ValueError: There are more or fewer weights than layers, or the tokens have another shape.
    """

    adapter: ImageAdapter
    tokens: Tensor
    weights: Sequence[float]
    mask: Tensor | None = None
    window: TimeWindow = (None, None)

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.adapter.layers):
            raise ValueError(f"weights must be {len(self.adapter.layers)}, one per layer; got {len(self.weights)}")
        if self.tokens.ndim != 3:
            raise ValueError(f"an image's tokens must be [B, tokens, dim]; got shape {tuple(self.tokens.shape)}")


@dataclass(frozen=True)
class Cond:
    """One conditioning: what the network is given as well as x and the timestep, and where and when it acts.

    Args:
        embeds: Token embeddings [B or 1, tokens, channels].
        extra: Further inputs by the network's own names (SDXL's `text_embeds` and `time_ids`), each [B or 1, …].
        strength: Weight against other conditionings of the same prompt.
        area: The part of the latent that it acts in; None: all of it.
        mask: Weights [M, *space] or [*space] at any resolution, for M samples.
        mask_strength: Factor of the mask.
        bounds: Act only in the box around the mask.
        window: Shares of the way through sampling between which it acts, 0 = start.
        default: Act where no other conditioning of the prompt does.
        concat: Further channels of the network's input [B or 1, C', *space], not scaled with x: an inpainting
            network's mask and image.
        controls: Images that steer the network; their effects add up.
        image_prompts: Images that the network attends to; their effects add up.
        role: What it is to the guider that asks: positive, negative, …; set by the guider.
    """

    embeds: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    strength: float = 1.0
    area: Area | Box | None = None
    mask: Tensor | None = None
    mask_strength: float = 1.0
    bounds: bool = False
    window: TimeWindow = (None, None)
    default: bool = False
    concat: Tensor | None = None
    controls: Sequence[Control] = ()
    image_prompts: Sequence[ImagePrompt] = ()
    role: str = ""


Prompt = Sequence[Cond]
"""The conditionings that make up one prompt."""


def same_controls(a: Cond, b: Cond) -> bool:
    """Whether the same networks steer both, with equal strengths and windows; hints may differ."""
    return len(a.controls) == len(b.controls) and all(
        c.net is d.net and (c.strength, c.window) == (d.strength, d.window) for c, d in zip(a.controls, b.controls)
    )


def same_adapters(a: Cond, b: Cond) -> bool:
    """Whether both attend to images through the same layers, with equal weights, windows and numbers of tokens."""
    return len(a.image_prompts) == len(b.image_prompts) and all(
        p.adapter is q.adapter
        and (tuple(p.weights), p.window, p.tokens.shape[1:], p.mask is None)
        == (tuple(q.weights), q.window, q.tokens.shape[1:], q.mask is None)
        for p, q in zip(a.image_prompts, b.image_prompts)
    )
