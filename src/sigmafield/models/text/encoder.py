"""The text encoder of a model as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusion_model import Running
from sigmafield.models.module_view import Views
from sigmafield.models.text.bundled import NONE, Bundled

Modules = Mapping[str, Any]
"""Torch modules by diffusers' names: unet or transformer, text_encoder, text_encoder_2, …."""


@runtime_checkable
class EncodeText(Protocol):
    """(modules, prompts, (height, width) in pixels, CLIP layer, LoRAs' textual inversions) → one row per prompt."""

    def __call__(
        self,
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond: ...


@runtime_checkable
class EncodeImages(Protocol):
    """(modules, prompts, images [1, 3, H, W] in [0, 1], whether they are numbered) → one row per prompt."""

    def __call__(self, modules: Modules, prompts: Sequence[str], images: Sequence[Tensor], numbered: bool) -> Cond: ...


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Reads prompts. Threads may share a value.

    Args:
        positive: Encodes prompts, as a function of the modules.
        negative: Encodes negative prompts, for models that read them in another way; None: as `positive` does.
        modules: The torch modules by diffusers' names: text_encoder, text_encoder_2, ….
        bundled: Textual inversions that LoRAs hold, by their names in prompts.
        running: Makes the context in which the modules are called.
        sees: Encodes prompts together with images; None for encoders that see none.
        numbered: Whether `sees` was trained with images that are numbered, of which there may be several.
        seen_pixels: Pixels of an image as `sees` was trained with; None: as many as the network is shown.
    """

    positive: EncodeText
    negative: EncodeText | None = None
    modules: Modules = field(default_factory=dict, repr=False)
    bundled: Bundled = field(default_factory=dict, repr=False)
    running: Running = nullcontext
    sees: EncodeImages | None = None
    numbered: bool = True
    seen_pixels: int | None = None
    _views: dict[str, Views] = field(default_factory=dict, init=False, repr=False)

    def encode(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        """Encodes prompts.

        Args:
            prompts: The texts, with weights in ComfyUI's notation.
            size: Height and width in pixels of the image, which some models are conditioned on.
            clip_skip: CLIP's layer to take hidden states from: -1 = the last, -2 the one before; None: as trained.

        Returns:
            A conditioning with one row per prompt.
        """
        with self.running(), self._own_modules() as modules:
            return self.positive(modules, prompts, size, clip_skip, self.bundled)

    def encode_negative(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        """Encodes negative prompts; arguments as for `encode`."""
        with self.running(), self._own_modules() as modules:
            return (self.negative or self.positive)(modules, prompts, size, clip_skip, self.bundled)

    def encode_edit(self, prompts: Sequence[str], images: Sequence[Tensor], numbered: bool | None = None) -> Cond:
        """Encodes prompts that say how images are edited.

        Args:
            prompts: The texts.
            images: Each [1, 3, H, W] in [0, 1], for every prompt.
            numbered: Whether they are called Picture 1, 2, …, as for networks that edit several; None: as trained.

        Raises:
            ValueError: The encoder sees no images.
        """
        if self.sees is None:
            raise ValueError("this text encoder sees no images: that of Qwen-Image-Edit does")
        with self.running(), self._own_modules() as modules:
            return self.sees(modules, prompts, images, self.numbered if numbered is None else numbered)

    @contextmanager
    def _own_modules(self) -> Iterator[Modules]:
        """Views of the modules for one call, which may hook into them: for textual inversions, or hidden states."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(self._views.setdefault(name, Views()).borrowed(module))
                for name, module in self.modules.items()
            }
