"""A stand-in for the parts of ComfyUI that packs plug into: model sampling, guiders, sampling, progress, loading.

It is written from the description of those interfaces, in the plainest way, and computes in float32 as ComfyUI does.
The network is a function of (x, level per sample, prompt), so that our own engine can be given the same one.
"""

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch


class Interrupted(Exception):
    """What the progress bar raises when the user stops the run."""


class Eps:
    """Variance exploding, levels of a linear-in-√β table."""

    def __init__(self, n=1000):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, n, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, 0)
        exact = ((1 - kept) / kept).sqrt()
        self.sigmas, self.log_sigmas = exact.float(), exact.log().float()

    def timestep(self, sigma):
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(0).view(sigma.shape)

    def sigma(self, timestep):
        t = timestep.float().clamp(0, len(self.sigmas) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - w) * self.log_sigmas[low] + w * self.log_sigmas[high]).exp()

    def percent_to_sigma(self, percent):
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else self.sigma(torch.tensor((1 - percent) * 999.0)).item()

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        level = sigma.reshape(sigma.shape[:1] + (1,) * (noise.ndim - 1))
        return latent + noise * ((1 + level**2).sqrt() if max_denoise else level)

    def inverse_noise_scaling(self, sigma, latent):
        return latent


class Const:
    """Rectified flow with a time shift."""

    def __init__(self, shift=3.0, n=1000):
        self.shift = shift
        self.sigmas = self._shifted(torch.arange(1, n + 1) / n)

    def _shifted(self, u):
        return self.shift * u / (1 + (self.shift - 1) * u)

    def timestep(self, sigma):
        return sigma * 1000

    def sigma(self, timestep):
        return self._shifted(timestep / 1000)

    def percent_to_sigma(self, percent):
        return 1.0 if percent <= 0 else 0.0 if percent >= 1 else self._shifted(1 - percent)

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        level = sigma.reshape(sigma.shape[:1] + (1,) * (noise.ndim - 1))
        return level * noise + (1 - level) * latent

    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1 - sigma)


class SD15:
    """A latent format: its name is what is known of it."""

    scale = 0.18215

    def process_in(self, latent):
        return latent * self.scale

    def process_out(self, latent):
        return latent / self.scale


class Wan21(SD15):
    """The format of a video model."""

    scale = 1.0


@dataclass
class InnerModel:
    """What a guider has of a model."""

    model_sampling: Any
    latent_format: Any
    network: Callable[..., torch.Tensor]

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)


@dataclass
class Patcher:
    """MODEL: a handle of a model, with options that nodes set on copies."""

    model: InnerModel
    options: dict = field(default_factory=dict)
    load_device: torch.device = torch.device("cpu")

    def get_model_object(self, name):
        return getattr(self.model, name)

    def with_options(self, **options):
        return replace(self, options={**self.options, **options})


class Guider:
    """GUIDER: classifier-free guidance with hooks after it."""

    def __init__(self, model, positive, negative, cfg):
        self.model_patcher, self.inner_model = model, model.model
        self.positive, self.negative, self.cfg = positive, negative, cfg
        self.calls = []

    def __call__(self, x, timestep, model_options=None, seed=None):
        assert timestep.shape == (len(x),) and timestep.dtype == torch.float32 and x.dtype == torch.float32
        options, negative = model_options or {}, self.negative
        if self.cfg == 1.0 and not options.get("disable_cfg1_optimization"):
            negative = None
        self.calls.append(timestep)
        network = self.inner_model.network
        cond = network(x, timestep, self.positive)
        uncond = torch.zeros_like(x) if negative is None else network(x, timestep, negative)
        denoised = cond if negative is None else uncond + (cond - uncond) * self.cfg
        for hook in options.get("sampler_post_cfg_function", ()):
            denoised = hook(
                {
                    "denoised": denoised, "cond": self.positive, "uncond": negative, "cond_scale": self.cfg,
                    "model": self.inner_model, "uncond_denoised": uncond, "cond_denoised": cond, "sigma": timestep,
                    "model_options": options, "input": x,
                }
            )  # fmt: skip
        return denoised

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        if sigmas.shape[-1] == 0:
            return latent_image
        if denoise_mask is not None:
            denoise_mask = fitted(denoise_mask, noise)
        latent = self.inner_model.process_latent_in(latent_image) if latent_image.any() else latent_image
        options = {**self.model_patcher.options, "transformer_options": {"sample_sigmas": sigmas}}
        extra = {"model_options": options, "seed": seed}
        out = sampler.sample(self, sigmas, extra, callback, noise, latent, denoise_mask, disable_pbar)
        return self.inner_model.process_latent_out(out.float()).cpu()


def fitted(mask, noise):
    """A mask of any size as one of the noise's shape."""
    space = noise.shape[2:]
    mask = mask.reshape((-1, 1, *mask.shape[-2:]) if len(space) == 2 else (1, 1, -1, *mask.shape[-2:]))
    mask = torch.nn.functional.interpolate(mask, space, mode="bilinear" if len(space) == 2 else "trilinear")
    return mask.expand(-1, noise.shape[1], *space).repeat(-(-len(noise) // len(mask)), *[1] * (noise.ndim - 1))[
        : len(noise)
    ]


@dataclass
class RandomNoise:
    """NOISE: drawn from the seed, after the global generator was seeded with it."""

    seed: int

    def generate_noise(self, latent):
        torch.manual_seed(self.seed)
        x, index = latent["samples"], latent.get("batch_index")
        if index is None:
            return torch.randn(x.shape, dtype=x.dtype)
        drawn = [torch.randn(1, *x.shape[1:], dtype=x.dtype) for _ in range(max(index) + 1)]
        return torch.cat([drawn[k] for k in index])


class NoNoise:
    """NOISE: zeros."""

    seed = 0

    def generate_noise(self, latent):
        return torch.zeros_like(latent["samples"])


def sampler_custom_advanced(noise, guider, sampler, sigmas, latent_image):
    """SamplerCustomAdvanced: (output, denoised_output, the calls of the callback)."""
    seen = []

    def callback(step, x0, x, total_steps):
        seen.append((step, x0.clone(), x.clone(), total_steps))

    with torch.inference_mode():
        out = guider.sample(
            noise.generate_noise(latent_image), latent_image["samples"], sampler, sigmas,
            denoise_mask=latent_image.get("noise_mask"), callback=callback, seed=noise.seed,
        )  # fmt: skip
        last = guider.inner_model.process_latent_out(seen[-1][1]) if seen else out
    return {**latent_image, "samples": out}, {**latent_image, "samples": last}, seen


def install(monkeypatch, folder):
    """ComfyUI's modules that packs import. Returns what progress bars were told: (value, total, preview)."""
    told = []

    class ProgressBar:
        stop_at = None

        def __init__(self, total, node_id=None):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            told.append((value, total or self.total, preview))
            if value == ProgressBar.stop_at:
                raise Interrupted

    paths: Any = types.ModuleType("folder_paths")
    for name in ("input", "output", "temp"):
        (folder / name).mkdir()
        setattr(paths, f"get_{name}_directory", lambda name=name: str(folder / name))
    comfy: Any = types.ModuleType("comfy")
    comfy.utils = types.ModuleType("comfy.utils")
    comfy.utils.ProgressBar = ProgressBar
    for module in (paths, comfy, comfy.utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return told, ProgressBar


def load_pack(path):
    """Imports a folder of custom_nodes as ComfyUI does: by its path, under a name made of it."""
    name = str(path).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def validated(cls, **inputs):
    """What a class's own validator says: it is given those literals that it has parameters for; links are None."""
    names = inspect.getfullargspec(cls.VALIDATE_INPUTS).args
    return cls.VALIDATE_INPUTS(**{key: value for key, value in inputs.items() if key in names})


def run_node(cls, **inputs):
    """One call of a V1 class, with what is not given at its default, under inference mode; a tuple or a dict."""
    types_of = cls.INPUT_TYPES()
    declared = {**types_of["required"], **types_of.get("optional", {})}
    defaults = {key: each[1]["default"] for key, each in declared.items() if "default" in each[1]}
    with torch.inference_mode():
        return getattr(cls(), cls.FUNCTION)(**{**defaults, **inputs})
