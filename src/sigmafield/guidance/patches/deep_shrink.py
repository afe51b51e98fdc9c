"""Deep shrink: early steps run the deep part of a UNet on a smaller map, so that large images have one layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range, Share
from sigmafield.core.protocols import Call, Network
from sigmafield.core.resize import resize
from sigmafield.core.time_windows import within
from sigmafield.guidance.patches.module_hooks import Change, after, before, during
from sigmafield.guidance.patches.unet_blocks import arrivals, inputs, mapped, outputs, unet
from sigmafield.guidance.registry import mod

Mode = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


def has_block(module: nn.Module, *, block: int) -> None:
    """Raises ValueError for a network without an input block of that number."""
    last = len(inputs(module)) - 1
    if not 1 <= block <= last:
        raise ValueError(f"deep_shrink needs a block of the UNet's way down, 1 ≤ block ≤ {last} here; got {block}")


@mod("deep_shrink", "network", "ComfyUI (PatchModelAddDownscale)", fits=has_block)
def deep_shrink(
    network: Network,
    call: Call,
    *,
    block: Annotated[int, Range(1, 32)] = 3,
    downscale_factor: Annotated[float, Range(0.1, 9)] = 2.0,
    start_percent: Share = 0.0,
    end_percent: Share = 0.35,
    after_skip: bool = True,
    downscale_method: Mode = "bicubic",
    upscale_method: Mode = "bicubic",
) -> Network:
    """Deep shrink: the map is shrunk after a block of the way down, and enlarged on the way up where a skip is larger.

        h ← resize(h, H/f, W/f)          after input block `block`
        h ← resize(h, the skip's size)   before each output block;   f = downscale_factor

    A UNet on more pixels than it was trained for then has as much of the image in view as in training while the layout
    is found: no repeated subjects, and less work.

    Args:
        network: The network.
        call: The call of it.
        block: Number of the input block: 0 is the first convolution, then each residual block (with its transformer)
            and each downsampler is one; Stable Diffusion 1 has 12, XL has 9.
        downscale_factor: How many times smaller the map becomes; 1 changes nothing.
        start_percent: Share of the way through the network's noise levels from which it acts.
        end_percent: Share of the way through the network's noise levels up to which it acts.
        after_skip: Whether the block's own skip keeps its size.
        downscale_method: How the map is shrunk.
        upscale_method: How it is enlarged.

    Raises:
        ValueError: The window ends between the noise levels of the samples.
    """
    now = within((start_percent, end_percent), call.sigma, call.ctx.span.sigma_at)
    if now.any() and not now.all():
        raise ValueError("deep_shrink's window ends between the noise levels of the samples: give them one schedule")
    if not now.all():
        return network
    shrink = partial(_shrunk, factor=downscale_factor, mode=downscale_method)
    patched = during(network, _hooks(call.module, block, shrink, after_skip, upscale_method))

    def alone(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if cond.controls:
            raise ValueError("deep_shrink changes the sizes that controls add to: give the controls another window")
        return patched(x, t, cond)

    return alone


def _shrunk(h: Tensor, factor: float, mode: str) -> Tensor:
    height, width = (round(n * (1 / factor)) for n in h.shape[-2:])
    if min(height, width) < 1:
        raise ValueError(f"deep_shrink leaves nothing of a map of {tuple(h.shape[-2:])}: lower downscale_factor")
    return resize(h, height, width, mode)


def _hooks(
    module: nn.Module, block: int, shrink: Callable[[Tensor], Tensor], after_skip: bool, upscale: str
) -> list[Change]:
    """The hooks that change sizes, and those that note the sizes of skips."""
    down, up = inputs(module), outputs(module)
    sizes: dict[int, Any] = {}

    def shrink_output(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return mapped(output, shrink)

    def shrink_input(part: nn.Module, args: Any, kwargs: Any) -> Any:
        return (shrink(args[0]), *args[1:]), kwargs

    def see(part: nn.Module, args: Any, kwargs: Any, output: Any, n: int) -> None:
        sizes[n] = (output[0] if isinstance(output, tuple) else output).shape[-2:]

    def grow(h: Tensor, n: int) -> Tensor:
        height, width = sizes[n]
        return h if h.shape[-2:] == (height, width) else resize(h, height, width, upscale)

    def upsample_to(part: nn.Module, args: Any, kwargs: Any, n: int) -> Any:
        return (args[0], sizes[n]), kwargs

    upsamplers = [each for level in unet(module).up_blocks for each in level.upsamplers or ()]
    following = down[block + 1].first if block + 1 < len(down) else unet(module).mid_block.resnets[0]
    hooks: list[Change] = [partial(before, following, shrink_input)]
    if not after_skip:
        hooks = [partial(after, down[block].last, shrink_output)]
    hooks += [partial(after, each.last, partial(see, n=n)) for n, each in enumerate(down)]
    last = len(down) - 1
    for n, each in zip(reversed(range(last)), up):
        if any(each.last is upsampler for upsampler in upsamplers):  # grows to the next skip's size before it convolves
            hooks.append(partial(before, each.last, partial(upsample_to, n=n)))
    return hooks + [arriving(partial(grow, n=last - k)) for k, arriving in enumerate(arrivals(module))]
