"""Stable Diffusion 1, 2 and XL from a diffusers directory or from the Hugging Face hub, run by diffusers' modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmafield.latents import LatentFormat, recognised
from sigmafield.models.directory import Directory, needed, open_directory, read_json, weights
from sigmafield.models.picture import codec, sides
from sigmafield.models.pipeline import Network, Pipeline
from sigmafield.models.scheduler import sampling_of
from sigmafield.types import Cond

try:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.utils.import_utils import is_accelerate_available
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
except ImportError as error:
    raise ImportError(
        f'this model needs diffusers and transformers ({error}):\npip install "sigmafield[diffusers]"'
    ) from error

Encode = Callable[[Sequence[str], tuple[int, int]], Cond]


def load_diffusers(model: str | Path, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """The model in a diffusers directory, or of a hub id such as "org/name", which is downloaded.

    dtype: of network and text encoders; the VAE runs in float32 where its config has force_upcast. Nothing is
    downloaded for a directory that exists. Raises FileNotFoundError for what is missing, ValueError for what is
    not supported, ConnectionError where the hub cannot be reached.
    """
    path = Path(model)
    where = open_directory(path if path.is_dir() else download(str(model)))
    sampling = sampling_of(where.scheduler())
    vae, latent, vae_dtype = load_vae(where, device, dtype)
    encode, decode = codec(
        lambda x: vae.encode(x).latent_dist.mean, lambda z: vae.decode(z).sample, latent, device, vae_dtype
    )
    folder = where.network("UNet2DConditionModel")
    config = read_json(folder / "config.json")
    check_network(folder, config, latent.channels)
    xl = config.get("addition_embed_type") == "text_time"
    return Pipeline(
        name=path.resolve().name if path.is_dir() else str(model),
        sampling=sampling,
        latent=latent,
        encode_text=(xl_encoder if xl else clip_encoder)(where, device, dtype),
        network=network_of(component(UNet2DConditionModel, folder, device, dtype), dtype),
        encode=encode,
        decode=decode,
        size=sides(config.get("sample_size"), latent.factor, 64),
        device=device,
        preview=latent.to_rgb if latent.rgb else None,
    )


def download(name: str) -> Path:
    """Directory of a hub id's files, downloaded where they are not in diffusers' cache.

    Raises ConnectionError saying how to get them by hand.
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
            f"model {name!r}: no such directory, and not to be had from the hub ({why}); "
            f"to get the files by hand: hf download {name} --local-dir {short}, then load './{short}'"
        ) from error


def component(kind: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A component of diffusers or transformers from a local folder, without gradients.

    Raises ValueError naming a weight that is missing or of another shape.
    """
    needed(folder / "config.json")
    _, variant = weights(folder)
    precision = "torch_dtype" if kind.__module__.startswith("diffusers") else "dtype"  # transformers' name for it
    options: dict[str, Any] = {"variant": variant, precision: dtype, "low_cpu_mem_usage": is_accelerate_available()}
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())[:300]}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model.to(device).eval().requires_grad_(False)


def load_vae(where: Directory, device: torch.device, dtype: torch.dtype) -> tuple[Any, LatentFormat, torch.dtype]:
    """The VAE, the format of its latents and the dtype that it runs in."""
    folder = where.folder("vae", "AutoencoderKL")
    dtype = torch.float32 if read_json(folder / "config.json").get("force_upcast", True) else dtype
    vae = component(AutoencoderKL, folder, device, dtype)
    c = vae.config
    if c.latents_mean is not None or c.latents_std is not None:
        raise ValueError(
            f"{folder}: latents_mean and latents_std are not supported; supported: scaling_factor, shift_factor"
        )
    factor = 2 ** (len(c.block_out_channels) - 1)
    form = LatentFormat(c.latent_channels, factor, float(c.scaling_factor), float(c.shift_factor or 0))
    return vae, recognised(form), dtype


def check_network(folder: Path, config: dict[str, Any], channels: int) -> None:
    """Raises ValueError for a network that wants more than latent, timestep, text and SDXL's conditioning."""
    supported: dict[str, tuple[Any, ...]] = {
        "in_channels": (channels,),
        "addition_embed_type": (None, "text_time"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim_type": (None,),
    }
    for key, values in supported.items():
        if config.get(key) not in values:
            known = ", ".join(map(repr, values))
            raise ValueError(f"{folder}: config: {key} = {config.get(key)!r} is not supported; supported: {known}")


def network_of(unet: Any, dtype: torch.dtype) -> Network:
    """`Pipeline.network` of a UNet: inputs in its dtype, the answer in float32."""

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        text = cond.embeds.to(dtype)
        return unet(x.to(dtype), t, encoder_hidden_states=text, added_cond_kwargs=cond.extra).sample.float()

    return network


def load_tokenizer(where: Directory, name: str, encoder: Any) -> Callable[[Sequence[str]], Tensor]:
    """prompts → ids [B, tokens], cut and padded to what the encoder takes."""
    folder = where.folder(name, "CLIPTokenizer")
    if not (folder / "tokenizer.json").is_file():
        needed(folder / "vocab.json")
        needed(folder / "merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)

    def ids(prompts: Sequence[str]) -> Tensor:
        batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(encoder.device)

    return ids


def clip_encoder(where: Directory, device: torch.device, dtype: torch.dtype) -> Encode:
    """`Pipeline.encode_text` of Stable Diffusion 1 and 2: the last hidden states, normalised."""
    text = component(CLIPTextModel, where.folder("text_encoder", "CLIPTextModel"), device, dtype)
    ids = load_tokenizer(where, "tokenizer", text)

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        return Cond(text(ids(prompts)).last_hidden_state.float())

    return encode_text


def xl_encoder(where: Directory, device: torch.device, dtype: torch.dtype) -> Encode:
    """`Pipeline.encode_text` of Stable Diffusion XL. Podell et al., arXiv:2307.01952.

    embeds: the last hidden states but one of both encoders, side by side; extra: the second one's pooled vector
    (text_embeds) and original size, crop and target size (time_ids), with size for both and no crop.
    """
    first = component(CLIPTextModel, where.folder("text_encoder", "CLIPTextModel"), device, dtype)
    folder = where.folder("text_encoder_2", "CLIPTextModelWithProjection")
    second = component(CLIPTextModelWithProjection, folder, device, dtype)
    ids, ids_2 = load_tokenizer(where, "tokenizer", first), load_tokenizer(where, "tokenizer_2", second)

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        a = first(ids(prompts), output_hidden_states=True)
        b = second(ids_2(prompts), output_hidden_states=True)
        height, width = size
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device)
        extra = {"text_embeds": b.text_embeds.float(), "time_ids": sizes.repeat(len(prompts), 1)}
        return Cond(torch.cat([a.hidden_states[-2], b.hidden_states[-2]], dim=-1).float(), extra)

    return encode_text
