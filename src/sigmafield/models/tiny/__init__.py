"""Models of Stable Diffusion 1's shape in plain torch: what the shipped model needs, without further packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.directory import open_directory, read_json, weights
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.models.text.prompt import Vocabulary, by_space, check_layer, chunks, encode_chunks
from sigmafield.models.text.textual_inversion import vectors_of
from sigmafield.models.tiny.clip import CLIPText
from sigmafield.models.tiny.tokenizer import Tokenizer
from sigmafield.models.tiny.unet import UNet
from sigmafield.models.tiny.vae import VAE
from sigmafield.models.vae.codec import codec, sides
from sigmafield.parameterization.latent_format import LatentFormat, recognised

Module = TypeVar("Module", bound=nn.Module)


def load_tiny(directory: Path, device: torch.device, dtype: torch.dtype, embeddings: Path | None = None) -> Pipeline:
    """The model in a directory of diffusers' layout, run by the modules of this package.

    Text encoder and network run in `dtype`, the VAE in float32 where its config has force_upcast; embeddings: folder
    of textual inversions. Raises
    FileNotFoundError for what is missing in the directory and ValueError for what is not supported.
    """
    where = open_directory(directory)
    network_folder = where.folder("unet", "UNet2DConditionModel")
    vae_folder = where.folder("vae", "AutoencoderKL")
    text_folder = where.folder("text_encoder", "CLIPTextModel")
    unet = read_module(UNet, network_folder, device, dtype)
    text = read_module(CLIPText, text_folder, device, dtype)
    words = Tokenizer(where.folder("tokenizer", "CLIPTokenizer"), text.config.max_position_embeddings)
    vectors = vectors_of(embeddings, "clip_l", text.config.hidden_size)
    vocabulary = Vocabulary(by_space(words.ids), words.bos, words.eos, words.pad, words.length, vectors)
    upcast = read_json(vae_folder / "config.json").get("force_upcast", True)
    vae_dtype = torch.float32 if upcast else dtype
    vae = read_module(VAE, vae_folder, device, vae_dtype)
    c = vae.config
    latent = recognised(
        LatentFormat(c.latent_channels, vae.factor, float(c.scaling_factor), float(c.shift_factor or 0))
    )
    encode, decode = codec(vae.encode, vae.decode, latent, device, vae_dtype)

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        check_layer(clip_skip, text.config.num_hidden_layers)
        rows = [chunks(prompt, vocabulary) for prompt in prompts]
        table = text.embeddings["token_embedding"]
        return Cond(encode_chunks(rows, vocabulary, table, lambda ids: (text(ids, clip_skip or -1).float(), None))[0])

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return unet(x.to(dtype), t, cond.embeds.to(dtype)).float()

    return Pipeline(
        name=directory.name,
        sampling=sampling_of(where.scheduler()),
        latent=latent,
        encode_text=encode_text,
        network=network,
        encode=encode,
        decode=decode,
        size=sides(unet.config.sample_size, latent.factor, 64),
        device=device,
        preview=decode,  # small enough for every step
        modules={"unet": unet, "vae": vae, "text_encoder": text},
    )


def read_module(kind: type[Module], folder: Path, device: torch.device, dtype: torch.dtype) -> Module:
    """A module built from the config.json of a folder, with the weights there, in `dtype` and without gradients.

    Raises ValueError naming a weight that is missing, unknown or of another shape.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
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
