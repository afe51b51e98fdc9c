"""How a server that speaks ComfyUI's protocol behaves, by the names of ComfyUI's own flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sigmafield.comfyui.cache import BySize, Cache, Forgetful, LastPrompt, LeastRecent
from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.serve.comfyui.file_settings import FileSettings

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class ComfyUISettings:
    """How ComfyUI's protocol is served.

    Args:
        preview_method: Whether samplers send previews for prompts that do not say it themselves: none, auto, latent2rgb
            or taesd; auto is latent2rgb, and so is taesd without the decoder's file in vae_approx.
        preview_size: Pixels of the square that a preview fits.
        cache_classic: Keep the results of the last prompt, as far as the next one needs them; this is the default.
        cache_lru: Keep the results of this many nodes, those used last.
        cache_none: Keep no results.
        cache_ram: Keep results up to this many GiB, and drop large ones that were not needed for long first.
        front_end_root: Folder with the files of ComfyUI's page; None is the one of the package
            comfyui-frontend-package, if it is installed.
        disable_metadata: Whether files are saved without the prompt and the workflow that they come from.
        enable_compress_response_body: Whether answers in JSON and texts are compressed for clients that can read it.
        files: Where files are.

    Raises:
        ValueError: A value is out of range, more than one cache is chosen, or the folder has no page.
    """

    preview_method: Literal["none", "auto", "latent2rgb", "taesd"] = "none"
    preview_size: Annotated[int, Range(16, 2048)] = 512
    cache_classic: bool = False
    cache_lru: Annotated[int | None, Range(1)] = None
    cache_none: bool = False
    cache_ram: Annotated[float | None, Range(0)] = None
    front_end_root: Path | None = None
    disable_metadata: bool = False
    enable_compress_response_body: bool = False
    files: FileSettings = FileSettings()

    def __post_init__(self) -> None:
        settle(self, "ComfyUI's protocol")
        chosen = [self.cache_classic, self.cache_lru is not None, self.cache_none, self.cache_ram is not None]
        if sum(chosen) > 1:
            raise ValueError("choose one of cache_classic, cache_lru, cache_none and cache_ram")
        if self.front_end_root is not None and not (self.front_end_root / "index.html").is_file():
            raise ValueError(f"front_end_root needs a folder with index.html; got {self.front_end_root}")

    def cache(self) -> Cache:
        """What keeps results from one prompt to the next."""
        if self.cache_none:
            return Forgetful()
        if self.cache_lru is not None:
            return LeastRecent(self.cache_lru)
        return LastPrompt() if self.cache_ram is None else BySize(round(self.cache_ram * GIB))
