"""The prompts of Qwen-Image 2.1: Qwen 3 VL reads them, and the images that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.chat import MASK, QWEN
from sigmafield.models.diffusers.qwen_edit import PAD, patches
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import load_tokenizer, of_prompts
from sigmafield.models.diffusers.tokenizers import in_turn
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder

SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
"""The system prompt that Qwen-Image 2.1 was trained with."""
SLOTS = "image_slots"
"""Name of the tokens that stand for images among a conditioning's further inputs: 1 for them, 0 for words."""
MEAN = STD = (0.5, 0.5, 0.5)
"""Of the colours that the vision encoder was trained with."""


def qwen21_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder: Qwen 3 VL's last hidden states before its norm, after the system prompt, and a mask."""
    module = source.module(Qwen3VLForConditionalGeneration, "text_encoder")
    name = "processor" if source.where.class_of("processor") else "tokenizer"
    read = in_turn(load_tokenizer(source, name, padding_side="right"))

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        return encoded(modules["text_encoder"], read, prompts, (), source.device)

    def encode_images(modules: Modules, prompts: Sequence[str], images: Sequence[Tensor], numbered: bool) -> Cond:
        return encoded(modules["text_encoder"], read, prompts, images, source.device)

    return TextEncoder(encode_text, modules={"text_encoder": module}, sees=encode_images)


def encoded(
    module: Any, read: Callable[..., Any], prompts: Sequence[str], images: Sequence[Tensor], device: torch.device
) -> Cond:
    """Prompts with images [1, 3, H, W] in [0, 1] before them, which they call <image1>, <image2>, …."""
    sight = module.config.vision_config
    cut = [patches(image, sight.patch_size, sight.spatial_merge_size, MEAN, STD) for image in images]
    pads = [PAD * (len(each) // sight.spatial_merge_size**2) for each, _ in cut]
    shown = " ".join(f"<image{k}><|vision_start|>{each}<|vision_end|>" for k, each in enumerate(pads, 1))
    texts = [SYSTEM + QWEN.format(shown + (prompt or " ")) for prompt in prompts]
    batch = read(texts, padding="longest", add_special_tokens=False, return_tensors="pt")
    skipped = len(read(SYSTEM, add_special_tokens=False).input_ids)
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    slots = (ids == module.config.image_token_id).int()
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if cut:
        inputs |= {
            "mm_token_type_ids": slots,
            "pixel_values": torch.cat([each for each, _ in cut] * len(prompts)).to(device, module.dtype),
            "image_grid_thw": torch.tensor([grid for _, grid in cut] * len(prompts), device=device),
        }
    states = last_states(module, inputs)[:, skipped:].float() * mask[:, skipped:, None]
    return Cond(states, {MASK: mask[:, skipped:], SLOTS: slots[:, skipped:]})


def last_states(module: Any, inputs: dict[str, Any]) -> Tensor:
    """What the last layer gives, before the norm after it. The module is one call's own, as a text encoder's are."""
    norm = module.model.language_model.norm
    hook = norm.register_forward_hook(lambda module, given, normed: given[0])
    try:
        return module.model(**inputs, use_cache=False).last_hidden_state
    finally:
        hook.remove()
