"""Reads the parts of a model from a directory in diffusers' layout or from a single file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.import_utils import is_accelerate_available

from sigmafield.models.diffusers.assemble import AUTOENCODERS, assembled
from sigmafield.models.directory import Directory, needed, read_json, weights
from sigmafield.models.single_file.checkpoint import SingleFile
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.weights.files import open_weights
from sigmafield.models.weights.gguf_file import t5_names
from sigmafield.models.weights.undrawn import one_at_a_time


@dataclass(frozen=True)
class Source:
    """A model to load.

    Args:
        where: Its directory or file.
        name: Name for error messages.
        device: Where the model runs.
        dtype: Of the network and the text encoders.
        home: Where parts wait until they are needed on the device; None: on the device.
        embeddings: What prompts may name as `embedding:name`.
        alone: Whether the network is all that is wanted, without text encoders and VAE.
    """

    where: Directory | SingleFile
    name: str
    device: torch.device
    dtype: torch.dtype
    home: torch.device | None = None
    embeddings: Inversions = Inversions()
    alone: bool = False

    def config(self, part: str, *supported: str) -> dict[str, Any]:
        """Reads the config of a part; raises ValueError if it is not of a supported class."""
        return self.where.config(part, *supported)

    def module(self, kind: Any, part: str, dtype: torch.dtype | None = None) -> Any:
        """Loads a part, without gradients.

        Args:
            kind: Class of diffusers or transformers.
            part: Name of the part.
            dtype: Of the weights; None: the source's.

        Raises:
            ValueError: If a weight is missing or of another shape.
        """
        where, precision = self.where, dtype or self.dtype
        if isinstance(where, SingleFile) and where.has(part):
            values = where.weights(part, kind.__name__)
            module = assembled(kind, self.config(part, kind.__name__), values, f"{where.path}: {part}", precision)
        else:
            module = pretrained(kind, where.folder(part, kind.__name__), precision)
        return module.to(self.home or self.device)


IGNORED = ("position_ids",)
"""Last parts of the names of tensors that older versions wrote, and that the classes compute."""


@one_at_a_time
def pretrained(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Loads a module of diffusers or transformers from a local folder, without gradients.

    Raises:
        ValueError: If a weight is missing or unknown, or quantised in a way that is not supported.
    """
    config = read_json(needed(folder / "config.json"))
    if "quantization_config" in config:
        way = config["quantization_config"]
        name = way.get("quant_method") or way.get("quant_type") if isinstance(way, dict) else way
        raise ValueError(f"{folder} is quantised, by {name}, which is not supported")
    paths, variant = weights(folder)
    stored = open_weights(paths)
    alone = kind.__name__ in AUTOENCODERS and not any(name.startswith("encoder.") for name in stored.header)
    if stored.packed or alone:
        stored = stored.renamed(t5_names(stored.header))
        values = {name: value for name, value in stored.read(stored.header) if not name.endswith(IGNORED)}
        return assembled(kind, config, values, str(folder), dtype)
    precision = "torch_dtype" if kind.__module__.startswith("diffusers") else "dtype"  # transformers' name for it
    options: dict[str, Any] = {"variant": variant, precision: dtype, "low_cpu_mem_usage": is_accelerate_available()}
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())[:300]}") from error
    unknown = [name for name in info["unexpected_keys"] if not name.endswith(IGNORED)]
    for names, rule in ((info["missing_keys"], "missing"), (unknown, "unknown")):
        if names:
            raise ValueError(f"{folder}: {len(names)} weights are {rule}, the first is {min(names)}")
    return model.eval().requires_grad_(False)


def download(name: str) -> Path:
    """Downloads the files of a hub id that are not in diffusers' cache; returns their directory.

    Raises:
        ConnectionError: If they cannot be downloaded; the message says how to get them by hand.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # slow to import, and seldom needed

    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:  # whatever the hub's client raises: offline, unknown name, no permission, no safetensors
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        short = name.split("/")[-1]
        raise ConnectionError(
            f"model {name!r}: no such directory, and not available from the hub ({why}); "
            f"to get the files by hand: hf download {name} --local-dir {short}, then load './{short}'"
        ) from error
