"""Models of Stable Diffusion 1's shape in plain torch: what the shipped model needs, without further packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.directory import Directory, open_directory, read_json, weights
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.text.prompt import Vocabulary, by_space, check_layer, chunks, encode_chunks
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.tiny.clip import CLIPText
from sigmafield.models.tiny.tokenizer import Tokenizer
from sigmafield.models.tiny.unet import UNet
from sigmafield.models.tiny.vae import VAE
from sigmafield.models.trained import trained_size
from sigmafield.models.vae.vae import Vae
from sigmafield.models.weights.undrawn import Undrawn, one_at_a_time
from sigmafield.parameterization.latent_format import LatentFormat, recognised

Module = TypeVar("Module", bound=nn.Module)


def load_tiny(
    directory: Path, device: torch.device, dtype: torch.dtype, embeddings: Inversions = Inversions()
) -> Pipeline:
    """Loads the model in a directory of diffusers' layout, run by the modules of this package.

    Args:
        directory: The model's directory.
        device: Where its modules are put.
        dtype: Of the text encoder and the network; the VAE runs in float32 where its config has force_upcast.
        embeddings: What prompts may name as `embedding:name`.

    Raises:
        FileNotFoundError: If a file of the directory is missing.
        ValueError: If a config or a weight is not supported.
    """
    where = open_directory(directory)
    network_folder = where.folder("unet", "UNet2DConditionModel")
    vae, c = load_vae(where, device, dtype)
    text = load_text(where, device, dtype, embeddings)
    unet = read_module(UNet, network_folder, device, dtype)

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return module(x.to(dtype), t, cond.embeds.to(dtype)).float()

    latent = latent_of(directory, vae, c)
    size = trained_size(unet.config.sample_size, latent.factor, 64)
    sampling = sampling_of(where.scheduler())
    model = DiffusionModel(directory.name, forward, sampling, latent, size, unet, schedule="karras", device=device)
    return Pipeline(model, text, vae)


def latent_of(directory: Path, vae: Vae, config: Any) -> LatentFormat:
    """The format of the latents of a directory's VAE, from its config."""
    c = config
    latent = recognised(LatentFormat(vae.channels, vae.factor, float(c.scaling_factor), float(c.shift_factor or 0)))
    measured = directory / "latent_rgb.json"  # `training/fit_preview.py` writes it
    return replace(latent, **read_json(measured)) if measured.is_file() else latent


def load_vae(where: Directory, device: torch.device, dtype: torch.dtype) -> tuple[Vae, Any]:
    """Loads the VAE of a directory; returns it with its config."""
    folder = where.folder("vae", "AutoencoderKL")
    dtype = torch.float32 if read_json(folder / "config.json").get("force_upcast", True) else dtype
    vae = read_module(VAE, folder, device, dtype)
    c = vae.config
    return Vae(vae.encode, vae.decode, c.latent_channels, vae.factor, None, device, dtype, vae, cheap=True), c


def load_text(where: Directory, device: torch.device, dtype: torch.dtype, embeddings: Inversions) -> TextEncoder:
    """Loads the text encoder and the tokenizer of a directory."""
    text = read_module(CLIPText, where.folder("text_encoder", "CLIPTextModel"), device, dtype)
    words = Tokenizer(where.folder("tokenizer", "CLIPTokenizer"), text.config.max_position_embeddings)
    vectors = embeddings.vectors_of("clip_l", text.config.hidden_size)
    vocabulary = Vocabulary(by_space(words.ids), words.bos, words.eos, words.pad, words.length, vectors)

    def encode(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        own = modules["text_encoder"]
        check_layer(clip_skip, own.config.num_hidden_layers)
        rows = [chunks(prompt, replace(vocabulary, bundled=bundled)) for prompt in prompts]
        table = own.embeddings["token_embedding"]
        return Cond(encode_chunks(rows, vocabulary, table, lambda ids: (own(ids, clip_skip or -1).float(), None))[0])

    return TextEncoder(encode, modules={"text_encoder": text})


@one_at_a_time
def read_module(kind: type[Module], folder: Path, device: torch.device, dtype: torch.dtype) -> Module:
    """A module built from the config.json of a folder, with the weights there, in `dtype` and without gradients.

    Raises ValueError naming a weight that is missing, unknown or of another shape.
    """
    try:
        with torch.device("meta"), Undrawn():
            module = kind(read_json(folder / "config.json"))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    files, _ = weights(folder)
    tensors = {key: value for file in files for key, value in load_file(file, device=str(device)).items()}
    tensors = {key.removeprefix("text_model."): value.to(dtype) for key, value in tensors.items()}
    tensors.pop("embeddings.position_ids", None)  # written by older transformers; a range of numbers
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    wrong = {
        key for key in shapes.keys() | tensors.keys() if key not in tensors or shapes.get(key) != tensors[key].shape
    }
    if wrong:
        rule = "are missing, unknown or of another shape than config.json says"
        raise ValueError(f"{folder}: {len(wrong)} weights {rule}, the first is {min(wrong)}")
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().requires_grad_(False)
