"""The values that nodes pass to each other, as annotations: ComfyUI's types with their Python values."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from sigmafield.comfyui.sockets import Hidden, Socket
from sigmafield.models.bundle import TextEncoder
from sigmafield.models.bundle import Vae as VaeValue
from sigmafield.models.diffusion_model import DiffusionModel


class LatentDict(TypedDict):
    """Latents in the VAE's scale. A node returns another dict, with the other keys of its input kept.

    samples: [B, C, H, W], or [B, C, frames, H, W] for videos. noise_mask: [B, 1, h, w] of any size, 1 = denoise.
    batch_index: which draw of the noise each sample has.
    """

    samples: Tensor
    noise_mask: NotRequired[Tensor]
    batch_index: NotRequired[list[int]]


Entry = tuple[Tensor, dict[str, Any]]
"""Token embeddings [B, tokens, dim] and what goes with them: pooled_output, area, mask, control, …."""

Model = Annotated[DiffusionModel, Socket("MODEL")]
Clip = Annotated[TextEncoder, Socket("CLIP")]
Vae = Annotated[VaeValue, Socket("VAE")]
Latent = Annotated[LatentDict, Socket("LATENT")]
Image = Annotated[Tensor, Socket("IMAGE")]
"""Images [B, H, W, C] in [0, 1], C = 3 or 4."""
Mask = Annotated[Tensor, Socket("MASK")]
"""Masks [B, H, W], or [H, W], in [0, 1]; 1 = repaint."""
Conditioning = Annotated[list[Entry], Socket("CONDITIONING")]
"""Entries as pairs, which custom nodes can change. Nodes make new lists and new dicts; pairs may be lists, too."""
Sigmas = Annotated[Tensor, Socket("SIGMAS")]
"""Noise levels [steps + 1] that descend, mostly to 0."""
AnyValue = Annotated[Any, Socket("*")]
PromptValue = Annotated[Any, Hidden("PROMPT")]
"""The whole prompt, for nodes that write it into files."""
ExtraValue = Annotated[Any, Hidden("EXTRA_PNGINFO")]
"""Further values to write into files, by name: the workflow; or None."""
UniqueId = Annotated[str, Hidden("UNIQUE_ID")]
"""The node's id in the prompt."""
