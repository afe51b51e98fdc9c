"""Loads a model: the shipped one, or one of the supported families in diffusers' layout or as a single file."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import check, keywords
from sigmafield.core.registry import shown
from sigmafield.models.bundle import Pipeline
from sigmafield.models.devices import choose_device, choose_dtype
from sigmafield.models.directory import SHIPPED, TINY, TINY_FLOW, nearby
from sigmafield.models.lora.merge import merge
from sigmafield.models.lora.read import notes_of, read_lora, usable
from sigmafield.models.lora.strengths import Loras, check_loras, lora_file
from sigmafield.models.running import check_compile, check_offload, compiled, offloaded
from sigmafield.models.text.bundled import together
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.threads import with_threads
from sigmafield.models.tiny import load_tiny
from sigmafield.models.tiny.flow import load_tiny_flow
from sigmafield.models.weights.files import check_ending

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(
    model: str | Path = TINY,
    *,
    parts: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    offload: bool = False,
    compile: bool = False,
    max_rows: Annotated[int | None, Range(1)] = None,
    preview: str | Path | None = None,
    embeddings: str | Path | None = None,
    skip_unknown_embeddings: bool = False,
    loras: Loras = (),
    lora_partial: bool = False,
) -> Pipeline:
    """Loads a model.

    Args:
        model: "tiny" or "tiny-flow" (shipped, 64×64 pixels), a directory in diffusers' layout, a single file
            (.safetensors, .sft or .gguf) in the layout that the model was published in, or a hub id such as
            "org/name". Quantised weights stay so in memory, and the layers compute in `dtype`.
        parts: Directory in diffusers' layout with the parts that a single file lacks: VAE, text encoders.
        device: cpu, cuda, cuda:1 or mps; None: the first that is available of cuda, mps, cpu.
        dtype: float32, float16 or bfloat16; None: float32 for shipped models and on the CPU, otherwise float16 for
            UNets and bfloat16 for transformers.
        offload: Whether text encoders, network and VAE wait on the CPU and are on the device one at a time.
        compile: Whether torch compiles the network at its first call: faster afterwards, with small differences.
        max_rows: Most rows (samples × prompts) of one network call, to save memory; None: all in one call.
        preview: Small decoder of the model's latents for previews: AutoencoderTiny's directory, TAESD's .safetensors
            file, or a directory of such files.
        embeddings: Directory of textual inversions, for `embedding:name` in prompts.
        skip_unknown_embeddings: Whether an unknown `embedding:name` is left out of the prompt with a warning, as in
            ComfyUI; otherwise encoding raises ValueError.
        loras: LoRA files by their paths with their strengths, one number or a pair of the network's and the text
            encoders', added to the weights in that order; any number, 0: none of it. A path without a strength has 1.
            The weights without them are not kept; `Pipeline.with_loras` keeps them. Textual inversions in a file are
            for `embedding:name` as well, at any strength.
        lora_partial: Whether a LoRA is loaded of which something cannot be used, which `Pipeline.notes` lists.

    Returns:
        The model, the text encoder and the VAE. Pickled, as for another process, it is this call, made again there.

    Raises:
        ValueError: If an argument has another type or is out of range, or the model is not supported.
        FileNotFoundError: If a file is missing.
        ImportError: If the model needs packages that are not installed.
        ConnectionError: If a hub id cannot be downloaded.
    """
    if not isinstance(model, (str, Path)):
        raise ValueError(f"load needs model to be a name or a path; got {shown(model)}")
    options = {
        "parts": absolute(parts), "device": device, "dtype": dtype, "offload": offload, "compile": compile,
        "max_rows": max_rows, "preview": absolute(preview), "embeddings": absolute(embeddings),
        "skip_unknown_embeddings": skip_unknown_embeddings, "lora_partial": lora_partial,
    }  # fmt: skip
    check("load", {name: keywords(load)[name] for name in options}, options)
    pairs = check_loras(loras)
    again = partial(load, absolute(model), **options, loras=[(absolute(path), each) for path, each in pairs])
    device = choose_device(device)
    if offload:
        check_offload(device)
    if compile:
        check_compile(device)
    if preview is not None and not Path(preview).expanduser().exists():
        raise FileNotFoundError(f"{preview}: no such file or directory to take a preview decoder from")
    words = Inversions(None if embeddings is None else Path(embeddings).expanduser(), skip_unknown_embeddings)
    pipe = load_plain(model, device, dtype, parts, torch.device("cpu") if offload else None, words)
    read = [(usable(read_lora(lora_file(path), pipe.adaptable), lora_partial), strengths) for path, strengths in pairs]
    for part, module in pipe.adaptable.items():
        merge(part, module, read)
    bundled = together(*(lora.bundled for lora, _ in read))
    pipe = replace(pipe, text=replace(pipe.text, bundled=bundled))
    if device.type == "cpu":
        pipe = with_threads(pipe)
    pipe = offloaded(pipe) if offload else pipe
    network = compiled(pipe.model) if compile else pipe.model
    pipe = replace(
        pipe, model=replace(network, max_rows=max_rows), loras=pairs, notes=notes_of(lora for lora, _ in read)
    )
    if preview is not None:
        from sigmafield.models.diffusers.preview import load_preview

        pipe = replace(pipe, small_decoder=load_preview(Path(preview).expanduser(), pipe.model.latent, pipe.device))
    return pipe.made_by(again)


def absolute(path: str | Path | None) -> Any:
    """A path that means the same in another process; what is not a path of this machine, such as a hub id, as it is."""
    if not isinstance(path, (str, Path)) or path in SHIPPED or not Path(path).expanduser().exists():
        return path
    return str(Path(path).expanduser().absolute())


def load_plain(
    model: str | Path,
    device: torch.device,
    dtype: str | torch.dtype | None,
    parts: str | Path | None,
    home: torch.device | None,
    embeddings: Inversions,
) -> Pipeline:
    """Loads the shipped model, a single file, a directory or a hub id, without LoRAs and options."""
    path = Path(model).expanduser()
    if parts is not None and not path.is_file():
        raise ValueError(f"parts belongs to a single file, and model {str(model)!r} is not one")
    if model in SHIPPED:
        data, chosen = Path(str(files("sigmafield"))) / "data", choose_dtype(dtype, torch.float32)
        if model == TINY_FLOW:
            return load_tiny_flow(data / TINY_FLOW, data / TINY, device, chosen, embeddings)
        return load_tiny(data / TINY, device, chosen, embeddings)
    asked = None if dtype is None else choose_dtype(dtype, torch.float32)
    if path.is_file():
        check_ending(path)
        from sigmafield.models.diffusers import load_single_file  # slow to import, and an extra

        return load_single_file(path, Path(parts).expanduser() if parts else None, device, asked, home, embeddings)
    if not path.is_dir() and not (isinstance(model, str) and HUB_ID.fullmatch(model)):
        raise FileNotFoundError(
            f"model {str(model)!r}: no such directory, and not a hub id like 'org/name'{nearby(path)}"
        )
    from sigmafield.models.diffusers import load_diffusers  # slow to import, and an extra

    return load_diffusers(path if path.is_dir() else str(model), device, asked, home, embeddings)
