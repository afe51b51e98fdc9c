"""LoRA files as each trainer writes them, with what they add to a weight, written out from its definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import original_names as names
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def original(family: str, module: nn.Module) -> Tensors:
    """The weights of a small network by the names that it was published with."""
    if family in ("sd1", "sdxl"):
        pairs = names.unet((1, 0), 1, layers=1) if family == "sd1" else names.unet((1, 0), 2, layers=1)
        return names.renamed(module, pairs, "")
    return {"flux dev": names.flux, "sd3": names.sd3, "lumina2": names.lumina, "wan": names.wan}[family](module, "")


@dataclass(frozen=True)
class Made:
    """What a file says of one layer.

    Args:
        tensors: The tensors, by the ends of kohya's and LyCORIS' names.
        new: The layer's weight → the weight at strength 1, by the definition, in float64.
        bias: The same of the bias.
    """

    tensors: Tensors
    new: Callable[[Tensor], Tensor]
    bias: Callable[[Tensor], Tensor] = lambda bias: bias


Kind = Callable[[Tensor, torch.Generator], Made]


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def summed(b: Tensor, a: Tensor) -> Tensor:
    """Σ_r B_or A_rc, one product after another."""
    return sum((b[:, r, None] * a[None, r, :] for r in range(len(a))), torch.zeros(len(b), a.shape[1]).double())


def lora(weight: Tensor, generator: torch.Generator) -> Made:
    """W + (α/r) B A; a convolution's kernel belongs to A."""
    rank, alpha = 2, 3.0
    a = draw(generator, rank, *weight.shape[1:])
    b = draw(generator, len(weight), rank, *[1] * (weight.ndim - 2))
    delta = alpha / rank * summed(b.flatten(1).double(), a.flatten(1).double())
    tensors = {"lora_down.weight": a, "lora_up.weight": b, "alpha": torch.tensor(alpha)}
    return Made(tensors, lambda w: w + delta.reshape(w.shape))


def locon(weight: Tensor, generator: torch.Generator) -> Made:
    """Three convolutions one after another: 1×1 to r channels, k×k among them, 1×1 from them. (LyCORIS' Tucker form)"""
    rank, alpha, (out, into, *kernel) = 3, 2.0, weight.shape
    a, b = draw(generator, rank, into, 1, 1), draw(generator, out, rank, 1, 1)
    core = draw(generator, rank, rank, *kernel)
    impulse = torch.eye(into).double()[:, :, None, None]  # what the three answer to one channel at one position

    def new(w: Tensor) -> Tensor:
        x = nn.functional.conv2d(impulse, a.double())
        x = nn.functional.conv2d(x, core.double(), padding=[k - 1 for k in kernel])
        x = nn.functional.conv2d(x, b.double())  # [in, out, k, k], turned by the convolution
        return w + alpha / rank * x.transpose(0, 1).flip(2, 3)

    tensors = {"lora_down.weight": a, "lora_up.weight": b, "lora_mid.weight": core, "alpha": torch.tensor(alpha)}
    return Made(tensors, new)


def loha(weight: Tensor, generator: torch.Generator) -> Made:
    """W + (α/r) (A₁ B₁) ⊙ (A₂ B₂)."""
    rank, alpha, columns = 2, 4.0, weight[0].numel()
    a1, a2 = (draw(generator, len(weight), rank) for _ in range(2))
    b1, b2 = (draw(generator, rank, columns) for _ in range(2))
    delta = alpha / rank * summed(a1.double(), b1.double()) * summed(a2.double(), b2.double())
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(alpha)}
    return Made(tensors, lambda w: w + delta.reshape(w.shape))


def loha_core(weight: Tensor, generator: torch.Generator) -> Made:
    """LoHa whose matrices are Tucker's: Σ_ij T_ij A_io B_jc."""
    rank, alpha, (out, into, *kernel) = 2, 1.0, weight.shape
    tensors: Tensors = {"alpha": torch.tensor(alpha)}
    delta = torch.full(weight.shape, alpha / rank).double()
    for n in "12":
        t, a, b = draw(generator, rank, rank, *kernel), draw(generator, rank, out), draw(generator, rank, into)
        tensors |= {f"hada_t{n}": t, f"hada_w{n}_a": a, f"hada_w{n}_b": b}
        pairs = [(i, j) for i in range(rank) for j in range(rank)]
        terms = (a[i].double()[:, None, None, None] * t[i, j] * b[j].double()[None, :, None, None] for i, j in pairs)
        delta = delta * sum(terms, torch.zeros(()).double())
    return Made(tensors, lambda w: w + delta)


def blocks(c: Tensor, d: Tensor) -> Tensor:
    """C ⊗ D: the block in row i and column j is C_ij D."""
    return torch.cat([torch.cat([c[i, j] * d for j in range(c.shape[1])], 1) for i in range(len(c))], 0)


def lokr(weight: Tensor, generator: torch.Generator, small: bool = False, large: bool = True) -> Made:
    """W + (α/r) C ⊗ D, where C (small) or D (large) is a product; without one α does not count."""
    rank, alpha, (out, into, *kernel) = 2, 6.0, weight.shape
    p = q = 2
    tensors: Tensors = {"alpha": torch.tensor(alpha)}
    c, d = draw(generator, p, q), draw(generator, out // p, into // q, *kernel)
    if small:
        tensors |= {"lokr_w1_a": draw(generator, p, rank), "lokr_w1_b": draw(generator, rank, q)}
        c = summed(tensors["lokr_w1_a"].double(), tensors["lokr_w1_b"].double())
    else:
        tensors["lokr_w1"] = c
    if large:
        columns = d[0].numel()
        tensors |= {"lokr_w2_a": draw(generator, out // p, rank), "lokr_w2_b": draw(generator, rank, columns)}
        d = summed(tensors["lokr_w2_a"].double(), tensors["lokr_w2_b"].double()).reshape(d.shape)
    else:
        tensors["lokr_w2"] = d
    delta = blocks(c.double(), d.double()) * (alpha / rank if small or large else 1)
    return Made(tensors, lambda w: w + delta)


def lokr_core(weight: Tensor, generator: torch.Generator) -> Made:
    """LoKr of a convolution, whose D is Tucker's: Σ_ij T_ij A_im B_jn."""
    rank, alpha, (out, into, *kernel) = 2, 6.0, weight.shape
    c, t = draw(generator, 2, 2), draw(generator, rank, rank, *kernel)
    a, b = draw(generator, rank, out // 2), draw(generator, rank, into // 2)
    d = sum(
        (a[i].double()[:, None, None, None] * t[i, j] * b[j].double()[None, :, None, None]
         for i in range(rank) for j in range(rank)), torch.zeros(()).double(),
    )  # fmt: skip
    delta = alpha / rank * blocks(c.double(), d)
    tensors = {"lokr_w1": c, "lokr_t2": t, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(alpha)}
    return Made(tensors, lambda w: w + delta)


def full(weight: Tensor, generator: torch.Generator) -> Made:
    """W + ΔW, and the bias too; α does not count."""
    change, bias = draw(generator, *weight.shape), draw(generator, len(weight))
    tensors = {"diff": change, "diff_b": bias, "alpha": torch.tensor(7.0)}
    return Made(tensors, lambda w: w + change, lambda b: b + bias)


def norm(weight: Tensor, generator: torch.Generator) -> Made:
    """A norm's weight and bias by LyCORIS' names."""
    change, bias = draw(generator, *weight.shape), draw(generator, *weight.shape)
    return Made({"w_norm": change, "b_norm": bias}, lambda w: w + change, lambda b: b + bias)


def dora(weight: Tensor, generator: torch.Generator, by_input: bool = False, of: Kind = lora) -> Made:
    """m (W + ΔW) / ‖W + ΔW‖, the norm of each row, or (as older files have it) of each column."""
    made = of(weight, generator)
    axis = 1 if by_input else 0
    shape = [n if k == axis else 1 for k, n in enumerate(weight.shape)]
    magnitude = draw(generator, *shape).abs() + 0.5

    def new(w: Tensor) -> Tensor:
        directed = made.new(w)
        vectors = directed.transpose(0, axis).reshape(len(magnitude.flatten()), -1)
        length = torch.stack([(vector * vector).sum().sqrt() for vector in vectors]).reshape(shape)
        return magnitude * directed / length

    return Made({**made.tensors, "dora_scale": magnitude}, new)


KINDS: dict[str, tuple[Kind, str]] = {
    "LoRA": (lora, "any"),
    "LoCon": (lora, "conv"),
    "LoCon with mid": (locon, "conv"),
    "LoHa": (loha, "any"),
    "LoHa with cores": (loha_core, "conv"),
    "LoKr": (lokr, "any"),
    "LoKr, both products": (lambda w, g: lokr(w, g, small=True), "any"),
    "LoKr, both whole": (lambda w, g: lokr(w, g, large=False), "any"),
    "LoKr with a core": (lokr_core, "conv"),
    "full": (full, "any"),
    "norms": (norm, "norm"),
    "DoRA": (dora, "any"),
    "DoRA by inputs": (lambda w, g: dora(w, g, by_input=True), "alone"),
    "DoRA of LoHa": (lambda w, g: dora(w, g, of=loha), "any"),
}
"""Kinds of changes, and the layers that they can be of: any matrix or convolution, those that are not cut, …."""

Spelling = Callable[[str, str], str]
"""(layer, one of kohya's ends) → the name of a tensor."""

PEFT = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
OLD = {"lora_down.weight": "lora.down.weight", "lora_up.weight": "lora.up.weight"}


def kohya(prefix: str) -> Spelling:
    return lambda layer, end: f"{prefix}{layer.replace('.', '_')}.{end}"


def dotted(prefix: str, ends: dict[str, str] = PEFT) -> Spelling:
    return lambda layer, end: f"{prefix}{layer}.{ends.get(end, end)}"


def processors(prefix: str) -> Spelling:
    """Names of diffusers' attention processors, which have only these layers."""

    def name(layer: str, end: str) -> str:
        head, _, last = layer.removesuffix(".0").rpartition(".")
        return f"{prefix}{head}.processor.{last}_{OLD.get(end, f'lora.{end}')}"

    return name


def xlabs(layer: str, end: str) -> str:
    """Names of XLabs' processors of Flux: 1 is the image, 2 the text."""
    block, number, name = layer.split(".", 2)
    last = {"img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1",
            "txt_attn.proj": "proj_lora2", "linear1": "qkv_lora", "linear2": "proj_lora"}[name]  # fmt: skip
    return f"{block}.{number}.processor.{last}.{OLD.get(end, end).removeprefix('lora.')}"


ATTENTION = r".*attn\d\.to_(q|k|v|out\.0)"
FUSED = r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]"

FORMATS: dict[str, tuple[str, bool, Spelling, str]] = {
    "kohya": ("sd1", False, kohya("lora_unet_"), ".*"),
    "kohya, published names": ("sdxl", True, kohya("lora_unet_"), ".*"),
    "ComfyUI": ("sdxl", True, dotted("diffusion_model."), ".*"),
    "diffusers": ("sd1", False, dotted("unet."), ".*"),
    "diffusers without prefix": ("sd1", False, dotted(""), ".*"),
    "diffusers, older": ("sd1", False, dotted("unet.", OLD), ".*"),
    "attention processors": ("sd1", False, processors("unet."), ATTENTION),
    "attention processors without unet.": ("sd1", False, processors(""), ATTENTION),
    "peft": ("sd1", False, dotted("base_model.model."), ".*"),
    "LyCORIS": ("sd1", False, kohya("lycoris_"), ".*"),
    "Flux, kohya": ("flux dev", True, kohya("lora_unet_"), ".*"),
    "Flux, ComfyUI": ("flux dev", True, dotted("diffusion_model."), ".*"),
    "Flux, ComfyUI with lora_down": ("flux dev", True, dotted("diffusion_model.", {}), ".*"),
    "Flux, fal": ("flux dev", True, dotted("base_model.model."), ".*"),
    "Flux, published names alone": ("flux dev", True, dotted(""), ".*"),
    "Flux, XLabs": ("flux dev", True, xlabs, FUSED),
    "Flux, ai-toolkit, SimpleTuner, diffusers": ("flux dev", False, dotted("transformer."), ".*"),
    "Flux, diffusers without prefix": ("flux dev", False, dotted(""), ".*"),
    "Flux, OneTrainer": ("flux dev", False, kohya("lora_transformer_"), ".*"),
    "Flux, SimpleTuner's LyCORIS": ("flux dev", False, kohya("lycoris_"), ".*"),
    "SD3, kohya": ("sd3", True, kohya("lora_unet_"), ".*"),
    "SD3, ComfyUI": ("sd3", True, dotted("diffusion_model."), ".*"),
    "SD3, diffusers": ("sd3", False, dotted("transformer."), ".*"),
    "SD3, OneTrainer": ("sd3", False, kohya("lora_transformer_"), ".*"),
    "Lumina 2, kohya": ("lumina2", True, kohya("lora_unet_"), ".*"),
    "Lumina 2, ComfyUI": ("lumina2", True, dotted("diffusion_model."), ".*"),
    "Lumina 2, diffusers": ("lumina2", False, dotted("transformer."), ".*"),
    "Wan, musubi": ("wan", True, kohya("lora_unet_"), ".*"),
    "Wan, ComfyUI": ("wan", True, dotted("diffusion_model."), ".*"),
    "Wan, diffusers": ("wan", False, dotted("transformer."), ".*"),
    "Wan, diffusers without prefix": ("wan", False, dotted(""), ".*"),
}
"""Formats: the family, whether layers have their published names, how tensors are named, and which layers there are."""


def weights(family: str, module: nn.Module, published: bool) -> Tensors:
    """The weights of a network by their published names, or by those of its class."""
    return original(family, module) if published else dict(module.state_dict())


TARGETS = {
    "conv": ("sd1", False, [r"down_blocks\.1\.resnets\.0\.conv[12]"]),
    "norm": ("sd1", False, [r"mid_block\.resnets\.0\.norm1"]),
    "alone": ("sd1", False, [r"down_blocks\.1\.resnets\.0\.conv1", r"mid_block\..*\.attn1\.to_q"]),
    "any": ("sd1", False, [r"down_blocks\.1\.resnets\.0\.conv1", r"mid_block\..*\.ff\.net\.2", ".*down.*proj_in"]),
    "cut": ("flux dev", True, [r"double_blocks\.0\..*_attn\.qkv", r"single_blocks\.0\.linear1", "final_layer.ada.*"]),
}
"""Layers of a few shapes, for kinds that can change them: those of "cut" are several of the class, or swapped."""


def file_of_format(name: str, state: Tensors) -> tuple[Tensors, Tensors]:
    """A file of a format for all layers of a network that it can name: its tensors, and the weights merged by hand."""
    _, _, spelling, pattern = FORMATS[name]
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    want: Tensors = {}
    for layer, weight in layers(state):
        if not re.fullmatch(pattern, layer):
            continue
        rows = len(weight)
        if spelling is xlabs and layer.endswith("linear1"):  # query, key and value, and not the perceptron
            rows = 3 * weight.shape[1]
        made = lora(weight[:rows], generator)
        tensors |= {spelling(layer, end): value.contiguous() for end, value in made.tensors.items()}
        want[f"{layer}.weight"] = torch.cat([made.new(weight[:rows].double()), weight[rows:].double()])
    return tensors, want


def file_of_kind(kind: str, target: str, strength: float, state: Tensors) -> tuple[Tensors, Tensors]:
    """A file with a kind of change, by kohya's names: its tensors, and the weights merged by hand."""
    generator, patterns = torch.Generator().manual_seed(1), TARGETS[target][2]
    tensors: Tensors = {}
    want: Tensors = {}
    for name, weight in state.items():
        layer, _, last = name.rpartition(".")
        if last != "weight" or not any(re.fullmatch(pattern, layer) for pattern in patterns):
            continue
        made = KINDS[kind][0](weight, generator)
        bias = state.get(f"{layer}.bias")
        ends = made.tensors if bias is not None else {k: v for k, v in made.tensors.items() if k != "diff_b"}
        tensors |= {kohya("lora_unet_")(layer, end): value.contiguous() for end, value in ends.items()}
        w = weight.double()
        want[name] = w + strength * (made.new(w) - w)
        if bias is not None:
            want[f"{layer}.bias"] = bias.double() + strength * (made.bias(bias.double()) - bias)
    return tensors, want


def layers(state: Tensors) -> Iterator[tuple[str, Tensor]]:
    """The layers with matrices or kernels, and their weights."""
    for name, value in state.items():
        if name.endswith(".weight") and value.ndim > 1:
            yield name.removesuffix(".weight"), value
