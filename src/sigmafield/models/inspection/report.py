"""What is said of a file of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sigmafield.models.lora.describe import LoraHeader

Kind = Literal[
    "checkpoint", "network", "VAE", "text encoder", "LoRA", "control net", "textual inversion", "preview decoder",
    "upscaler", "IP-Adapter", "unknown",
]  # fmt: skip
"""A checkpoint is a network with other parts of its model in the same file."""

FAMILIES = {
    "sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL",
    "sdxl_refiner": "SDXL's refiner", "sd3": "Stable Diffusion 3", "flux": "Flux", "wan": "Wan", "lumina2": "Lumina 2",
    "qwen_image": "Qwen-Image", "qwen_image21": "Qwen-Image 2.1", "z_image": "Z-Image", "flux2": "Flux 2",
    "chroma": "Chroma", "wan_fun": "Wan Fun", "wan_vace": "Wan VACE",
    "ltxv": "LTX-Video", "hunyuan_video": "HunyuanVideo",
    "hidream": "HiDream-I1", "unet": "a UNet whose family is not clear",
}  # fmt: skip
"""Families in words."""


@dataclass(frozen=True)
class Part:
    """A part of a model in a file.

    Args:
        name: Its name: unet, transformer, vae, text_encoder, …; other: what belongs to no part.
        parameters: How many numbers it has.
        size: Bytes that they take in the file.
    """

    name: str
    parameters: int
    size: int


@dataclass(frozen=True)
class Found:
    """What the names and shapes of a file's weights say.

    Args:
        kind: What the file is.
        families: The models that it is, or is for, by our names; others in words.
        prefixes: Where the parts are: part → beginning of names.
        missing: What it takes as well to draw an image.
        problem: Why it cannot be loaded; None: it can.
        facts: What else is known, by what it is about.
        lora: What a LoRA's header says.
    """

    kind: Kind
    families: Sequence[str] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict[str, str])
    missing: Sequence[str] = ()
    problem: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    lora: LoraHeader | None = None


@dataclass(frozen=True)
class Inspected:
    """What a file of weights is, from its header alone.

    Args:
        path: The file.
        container: safetensors or gguf.
        kind: What it is.
        families: The models that it is, or is for: sd1, sd2, sdxl, sdxl_refiner, sd3, flux, wan, lumina2, or words.
        parts: The parts of a model in it.
        weights: How its weights are stored: dtypes or ways of quantisation, the most frequent first.
        quantised: Whether any weights have another form than floats of 16 bits and more.
        parameters: How many numbers it has.
        size: Bytes of the file.
        memory: Bytes that the weights take when loaded, by dtype: "half", "float32"; quantised ones as they are, for
            those that stay so.
        missing: What it takes as well to draw an image.
        problem: Why it cannot be loaded; None: it can.
        use: How it is given on the command line; None: it is not.
        facts: What else is known, by what it is about: variant, what a union reads, vectors of a textual inversion, ….
        words: Trigger words, the most frequent first.
        training: Entries of the metadata about training.
        lora: What a LoRA's header says; None for other files.
    """

    path: str
    container: Literal["safetensors", "gguf"]
    kind: Kind
    families: tuple[str, ...]
    parts: tuple[Part, ...]
    weights: str
    quantised: bool
    parameters: int
    size: int
    memory: Mapping[str, int]
    missing: tuple[str, ...]
    problem: str | None
    use: str | None
    facts: Mapping[str, str]
    words: tuple[str, ...]
    training: Mapping[str, str]
    lora: LoraHeader | None

    @property
    def about(self) -> str:
        """What the file is, in a few words."""
        families = " or ".join(FAMILIES.get(family, family) for family in self.families)
        if not families:
            return self.kind
        own = self.kind in ("checkpoint", "network")
        return f"{families} {self.kind}" if own else f"{self.kind} for {families}"

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them."""
        values = asdict(self)
        if self.lora is not None:  # JSON has no numbers as keys
            values["lora"]["ranks"] = {str(rank): n for rank, n in self.lora.ranks.items()}
        return {"path": self.path, "about": self.about, **values}
