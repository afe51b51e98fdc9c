"""Nodes of control nets that ComfyUI attaches to a model, and not to prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor

from sigmafield.comfyui.context import Context
from sigmafield.comfyui.control import ControlNetFile
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.image_conditioning import hint_of
from sigmafield.comfyui.sockets import Input, Socket, files
from sigmafield.comfyui.values import Image, Mask, Model, Vae
from sigmafield.core.annotations import Range
from sigmafield.core.conditioning import Cond, Control
from sigmafield.core.fitting import covering
from sigmafield.models.diffusion_model import DiffusionModel

ModelPatch = Annotated[ControlNetFile, Socket("MODEL_PATCH")]


@node("ModelPatchLoader", "advanced/loaders", experimental=True)
def model_patch_loader(name: Annotated[str, files("model_patches")], context: Context = Context()) -> ModelPatch:
    """Finds a control net of Z-Image, which is read when it is applied.

    Args:
        name: A file in the folder of model patches; only those of Z-Image are supported.
        context: Where the folders are.
    """
    return ControlNetFile(context.folders.path("model_patches", name), context.device, loading=context.loading)


@node("ZImageFunControlnet", "advanced/loaders/zimage", experimental=True)
def z_image_fun_controlnet(
    model: Model,
    model_patch: ModelPatch,
    vae: Vae,
    strength: Annotated[float, Range(-10, 10), Input(step=0.01)] = 1.0,
    image: Image | None = None,
    inpaint_image: Image | None = None,
    mask: Mask | None = None,
) -> Model:
    """Steers Z-Image by an image, for all prompts.

    Args:
        model: The model.
        model_patch: The control net.
        vae: The VAE, whose latent of the image it reads.
        strength: Factor of what it adds; 0 leaves the model as it is.
        image: The image that it reads, the first of several.
        inpaint_image: Not supported.
        mask: Not supported.
    """
    if inpaint_image is not None or mask is not None:
        raise ValueError("inpaint_image and mask are not supported: give an image alone, and the mask with the latent")
    if image is None:
        raise ValueError("image is needed: what the control net reads")
    if not strength:
        return model
    net = model_patch.network(model.network, vae)
    return replace(model, network=steered(model.network, Control(net, hint_of(image[:1]), strength)))


def steered(network: DiffusionModel, control: Control) -> DiffusionModel:
    """A network that is steered in every call, by the control's image at the size of what it is shown."""

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        height, width = (control.net.factor * side for side in x.shape[-2:])
        hint = covering(control.hint, height, width).expand(len(x), -1, -1, -1)
        return network.forward(module, x, t, replace(cond, controls=[*cond.controls, replace(control, hint=hint)]))

    return replace(network, forward=forward)
