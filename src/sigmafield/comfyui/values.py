"""The values that nodes pass to each other, as annotations: ComfyUI's types with their Python values."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from sigmafield.comfyui.conditioning import Entry
from sigmafield.comfyui.control import ControlNetFile
from sigmafield.comfyui.latent import LatentDict
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sampling import GuiderValue, NoiseValue, SamplerValue
from sigmafield.comfyui.sockets import Hidden, Socket
from sigmafield.comfyui.video import Sound, VideoValue
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.vae.vae import Vae as VaeValue

Model = Annotated[NodeModel, Socket("MODEL")]
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
Guider = Annotated[GuiderValue, Socket("GUIDER")]
Sampler = Annotated[SamplerValue, Socket("SAMPLER")]
Noise = Annotated[NoiseValue, Socket("NOISE")]
ControlNet = Annotated[ControlNetFile, Socket("CONTROL_NET")]
Video = Annotated[VideoValue, Socket("VIDEO")]
Audio = Annotated[Sound, Socket("AUDIO")]
AnyValue = Annotated[Any, Socket("*")]
PromptValue = Annotated[Any, Hidden("PROMPT")]
"""The whole prompt, for nodes that write it into files."""
ExtraValue = Annotated[Any, Hidden("EXTRA_PNGINFO")]
"""Further values to write into files, by name: the workflow; or None."""
UniqueId = Annotated[str, Hidden("UNIQUE_ID")]
"""The node's id in the prompt."""
