"""The prompts of Qwen-Image-Edit, which come with images that Qwen 2.5 VL sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.chat import MASK, QWEN, Chat, states_of
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import load_tokenizer
from sigmafield.models.diffusers.tokenizers import in_turn
from sigmafield.models.text.encoder import EncodeImages, Modules

EDIT = Chat(
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n" + QWEN,
    length=1 << 20,
    skipped=64,
)
"""How the network was trained to ask for an edit; prompts are not cut."""
PAD = "<|image_pad|>"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that the vision encoder was trained with, CLIP's."""


def image_encoder(source: Source) -> EncodeImages:
    """Makes the function that encodes prompts with images."""
    read = in_turn(load_tokenizer(source, "tokenizer", padding_side="right"))

    def encode_images(modules: Modules, prompts: Sequence[str], images: Sequence[Tensor], numbered: bool) -> Cond:
        module = modules["text_encoder"]
        sight = module.config.vision_config
        cut = [patches(image, sight.patch_size, sight.spatial_merge_size) for image in images]
        seen = [f"<|vision_start|>{PAD * (len(each) // sight.spatial_merge_size**2)}<|vision_end|>" for each, _ in cut]
        shown = "".join(f"Picture {k}: {each}" if numbered else each for k, each in enumerate(seen, 1))
        batch = read(
            [EDIT(shown + prompt) for prompt in prompts],
            padding="longest",
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "mm_token_type_ids": (batch.input_ids == module.config.image_token_id).int(),
            "pixel_values": torch.cat([each for each, _ in cut] * len(prompts)).to(module.dtype),
            "image_grid_thw": torch.tensor([grid for _, grid in cut] * len(prompts)),
        }
        inputs = {name: value.to(source.device) for name, value in inputs.items()}
        return Cond(states_of(module, EDIT, inputs), {MASK: inputs["attention_mask"][:, EDIT.skipped :]})

    return encode_images


def patches(
    image: Tensor, side: int, merged: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[Tensor, tuple[int, int, int]]:
    """An image as Qwen's language models see it: a video of two equal frames, cut into patches.

    Args:
        image: [1, 3, H, W] in [0, 1]; its sides are brought to multiples of merged patches.
        side: Side of a patch in pixels.
        merged: Patches along each side that become one token; they follow each other.
        mean: Of each colour.
        std: Of each colour.

    Returns:
        Patches [n, 3 · 2 · side²], and the numbers of frames, rows and columns of patches.
    """
    unit = side * merged
    height, width = (max(round(length / unit), 1) * unit for length in image.shape[-2:])
    if (height, width) != tuple(image.shape[-2:]):
        image = F.interpolate(image, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    middle, spread = (torch.tensor(value).to(image).reshape(1, 3, 1, 1) for value in (mean, std))
    rows, columns = height // side, width // side
    x = ((image - middle) / spread).reshape(3, rows // merged, merged, side, columns // merged, merged, side)
    x = x.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, side * side)
    return x.expand(-1, -1, 2, -1).reshape(rows * columns, -1), (1, rows, columns)
