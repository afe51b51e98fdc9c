"""Classes of ComfyUI that are not offered, and why."""

from __future__ import annotations

from collections.abc import Mapping

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "needs a network that enlarges images, a kind that is not supported": (
        "ImageUpscaleWithModel",
        "UpscaleModelLoader",
        "SD_4XUpscale_Conditioning",
    ),
    "needs a model of layered images, a kind that is not supported": ("EmptyQwenImageLayeredLatentImage",),
    "saves vector graphics, which only paid services make": ("SaveSVGNode",),
    "what it computes is not documented": ("CreateBoundingBoxes", "ColorTransfer"),
    "needs a configuration file of Stable Diffusion's first code; CheckpointLoaderSimple needs none": (
        "CheckpointLoader",
    ),
    "needs a model that is steered by images, a kind that is not supported": (
        "unCLIPCheckpointLoader",
        "unCLIPConditioning",
    ),
    "needs a kind of patch file that is not read": (
        "HypernetworkLoader",
        "GLIGENLoader",
        "GLIGENTextBoxApply",
        "DiffControlNetLoader",
    ),
    "needs a patch of a network that diffusers does not have, and whose formula is not documented": (
        "QwenImageDiffsynthControlnet",
        "USOStyleReference",
    ),
    "needs a family that is not supported": (
        "ImageOnlyCheckpointLoader",
        "ImageOnlyCheckpointSave",
        "SVD_img2vid_Conditioning",
        "UNetTemporalAttentionMultiply",
        "CLIPTextEncodePixArtAlpha",
        "LotusConditioning",
        "FluxKVCache",
        "ControlNetInpaintingAliMamaApply",
        "WanCameraEmbedding",
        "WanCameraImageToVideo",
    ),
    "writes checkpoints in the layouts of others, which is not supported": (
        "CheckpointSave",
        "ModelSave",
        "CLIPSave",
        "VAESave",
    ),
    "changes weights during a run, which is not supported": (
        "CreateHookLora",
        "CreateHookLoraModelOnly",
        "CreateHookModelAsLora",
        "CreateHookModelAsLoraModelOnly",
        "SetHookKeyframes",
        "CreateHookKeyframe",
        "CreateHookKeyframesInterpolated",
        "CreateHookKeyframesFromFloats",
        "CombineHooks2",
        "CombineHooks4",
        "CombineHooks8",
        "SetClipHooks",
    ),
    "would change a loaded model in place: dtype and compiling are chosen when a model is loaded": (
        "ModelComputeDtype",
        "TorchCompileModel",
    ),
    "takes Flux's guidance input away, which networks with that input need here": ("FluxDisableGuidance",),
    "changes a text encoder or positions in a way that is not supported": (
        "CLIPTextEncodeControlnet",
        "CLIPAttentionMultiply",
        "ScaleROPE",
    ),
}
"""Names of classes by the reason."""


def reasons() -> dict[str, str]:
    """Why each of the classes that are not offered is not, by name."""
    return {name: why for why, names in LEFT_OUT.items() for name in names}
