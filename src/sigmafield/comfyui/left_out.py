"""Classes of ComfyUI that are not offered, and why."""

from __future__ import annotations

from collections.abc import Mapping

from sigmafield.comfyui.left_out_models import LEFT_OUT_MODELS

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "needs a network that enlarges images, of which there is no family": ("ImageUpscaleWithModel",),
    "needs videos, which no package that is installed reads and writes": (
        "SaveVideo",
        "CreateVideo",
        "LoadVideo",
        "GetVideoComponents",
        "Video Slice",
        "SaveWEBM",
    ),
    "needs sound, which no model here makes": ("SaveAudioAdvanced", "LoadAudio", "RecordAudio", "TrimAudioDuration"),
    "needs a language model": ("TextGenerate",),
    "needs a model of layered images, of which there is no family": ("EmptyQwenImageLayeredLatentImage",),
    "saves vector graphics, which only paid services make": ("SaveSVGNode",),
    "sends images to the page that asked for them, which the server does": ("SaveImageWebsocket",),
    "what it computes is not documented": ("CreateBoundingBoxes", "ColorTransfer"),
}
"""Names of classes about images, latents, masks and values by the reason."""


def reasons() -> dict[str, str]:
    """Why each of the classes that are not offered is not, by name."""
    return {name: why for table in (LEFT_OUT, LEFT_OUT_MODELS) for why, names in table.items() for name in names}
