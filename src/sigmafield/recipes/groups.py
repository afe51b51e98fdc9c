"""The options of a recipe in groups, each a panel of the command line's help; `Recipe` is all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sigmafield.core.annotations import Range
from sigmafield.core.registry import Spec
from sigmafield.recipes.field_values import Specs
from sigmafield.recipes.image_io import MaskFrom
from sigmafield.recipes.in_memory import ImageSource
from sigmafield.recipes.options import AdapterImage, ControlImage, DemoFusion, Detail, Lora, Reference, Region, Tiling


@dataclass(frozen=True, kw_only=True)
class CanvasOptions:
    """How many images, and of which size.

    Args:
        width: Width in pixels; None is the model's own, or the image's.
        height: Height in pixels; None is the model's own, or the image's.
        batch: Number of images that are drawn together.
        frames: Frames of a video; None is the model's own, or the image's.
    """

    width: Annotated[int | None, Range(1, 65536)] = None
    height: Annotated[int | None, Range(1, 65536)] = None
    batch: Annotated[int, Range(1, 4096)] = 1
    frames: Annotated[int | None, Range(1, 100000)] = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the noise becomes an image.

    Args:
        sampler: Sampler with parameters, such as "dpmpp_2m_sde(eta=0.5)"; `sigmafield samplers` lists them.
        schedule: Schedule with parameters, such as "karras(rho=5)"; None is the one recommended for the model.
        steps: Number of steps.
        cfg: Guidance scale; 1 turns guidance off, None is the model's own: 3 to 6, or 1 for models that were
            distilled with guidance.
        guidance: Guidance mods, such as "apg(eta=0.5)+cfg_norm"; `sigmafield guidance` lists them.
        seed: Seed of the whole batch; -1 or "random" draws one, which the recipe then has.
        noise: Spectrum of the noise, such as "pyramid(discount=0.8)" or "coloured(exponent=1)"; None is white.
        distilled_guidance: Guidance that a distilled network, such as Flux dev, is given as an input; None is the
            model's own, 3.5 for Flux dev.
        shift: Time shift of a flow network, or "size" for the one that the model was trained with at this size; None
            is the model's own.
        allow_nonfinite: Go on with NaN or infinity in the latent, which otherwise ends the run with an error.
        start_step: First step of the schedule that is run.
        last_step: Step of the schedule at which the run stops.
    """

    sampler: Spec | str = "dpmpp_2m"
    schedule: Spec | str | None = None
    steps: Annotated[int, Range(1, 10000)] = 20
    cfg: float | None = None
    guidance: Specs = ()
    seed: Annotated[int | Literal["random"], Range(-1, 2**64 - 1)] = 0
    noise: Spec | str | None = None
    distilled_guidance: float | None = None
    shift: float | Literal["size"] | None = None
    allow_nonfinite: bool = False
    start_step: Annotated[int | None, Range(0)] = None
    last_step: Annotated[int | None, Range(1)] = None


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The image that a run starts from, and how much of it changes where.

    Args:
        image: The input image, or an animation for a video: its path or, in Python, an image in memory.
        image_sha256: Digest of its bytes; filled in when the recipe is run.
        denoise: Share of the schedule that the input image goes through; 1 draws everything again.
        mask: An image whose white parts are drawn again and whose black parts are kept; path or image.
        mask_sha256: Digest of its bytes; filled in when the recipe is run.
        mask_from: What of the mask's image is read: its brightness; its alpha, painted = drawn again; or the
            inverted_alpha, transparent = drawn again, as ComfyUI's LoadImage reads it. "auto" is alpha where colour
            carries nothing, as in a layer that was painted on, else brightness.
        mask_feather: Pixels over which the mask fades out beyond its edge; None is 0, or with `pad` an eighth of the
            image's shorter side.
        pad: Pixels to add to the image and to draw, as "left,top,right,bottom".
        paste_back: Whether the result is pasted into the input image, so that pixels where the mask is 0 stay exactly
            as they are.
        match_colours: With paste_back: whether the colours of the result are shifted so that they agree with the input
            image where the mask keeps it.
        denoise_map: An image whose brightness is the denoise strength of each position, white = `denoise`, black =
            `min_denoise`; path or image; or "auto": strong where the image has much detail.
        denoise_map_sha256: Digest of its bytes; filled in when the recipe is run.
        min_denoise: Denoise strength where the denoise map is black; 0 keeps the image there.
        map_schedule: With a denoise map: a delayed start on one schedule, or an own schedule of as many smaller steps.
        mixing: Iterative mixing with the noised image between the steps, such as "cosine(alpha_1=0.3)".
        scale: Factor by which the image is enlarged first.
    """

    image: ImageSource | None = None
    image_sha256: str | None = None
    denoise: Annotated[float, Range(0, 1, above=True)] = 1.0
    mask: ImageSource | None = None
    mask_sha256: str | None = None
    mask_from: MaskFrom = "auto"
    mask_feather: Annotated[int | None, Range(0, 4096)] = None
    pad: tuple[int, int, int, int] | str | None = None
    paste_back: bool = False
    match_colours: bool = False
    denoise_map: ImageSource | None = None
    denoise_map_sha256: str | None = None
    min_denoise: Annotated[float, Range(0, "denoise")] = 0.0
    map_schedule: Literal["delayed", "own"] = "delayed"
    mixing: Specs = ()
    scale: Annotated[float, Range(1)] = 1.0


@dataclass(frozen=True, kw_only=True)
class SteeringOptions:
    """Prompts for parts of the image, and images that steer the network or are shown to it.

    Args:
        regions: Prompts for boxes of the image.
        controls: Images that steer the network, each read by a ControlNet or T2I-Adapter.
        control_crop: What a region sees of a control image: fit, all of it at the region's size, as in ComfyUI; along,
            the part where the region is.
        ip_adapters: Images that the network attends to, each through an IP-Adapter.
        references: Images that an editing network is shown, in the order in which the prompt speaks of them.
    """

    regions: Sequence[Region] = ()
    controls: Sequence[ControlImage] = ()
    control_crop: Literal["fit", "along"] = "fit"
    ip_adapters: Sequence[AdapterImage] = ()
    references: Sequence[Reference] = ()


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model, and what is added to it or said about it.

    Args:
        model: "tiny" or "tiny-flow" (embedded), a diffusers directory, a .safetensors checkpoint, or a hub id.
        parts: Diffusers directory for what a checkpoint lacks: VAE, text encoders.
        loras: LoRA files, merged in this order.
        lora_partial: Load what can be used of a LoRA file; without it, a file with anything else is refused.
        embeddings: Directory of textual inversions, for embedding:name in prompts.
        skip_unknown_embeddings: An unknown embedding:name is left out of the prompt with a note, as in ComfyUI, instead
            of refused.
        clip_skip: Layer of CLIP to stop at, -1 is the last; None is the model's own.
        model_sampling: What the network was trained for, where its files do not say, such as
            "discrete(prediction=v, zsnr=true)".
    """

    model: str | Path = "tiny"
    parts: str | Path | None = None
    loras: Sequence[Lora] = ()
    lora_partial: bool = False
    embeddings: str | Path | None = None
    skip_unknown_embeddings: bool = False
    clip_skip: Annotated[int | None, Range(-100, -1)] = None
    model_sampling: Spec | str | None = None


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """How images that are larger than the network's own size are drawn.

    Args:
        tiling: The network is shown tiles.
        detail: The quadtree of the denoise map "auto".
        demofusion: Drawn at one size, then at multiples of it.
    """

    tiling: Tiling | None = None
    detail: Detail = Detail()
    demofusion: DemoFusion | None = None
