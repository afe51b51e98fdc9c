"""Memory and error of quantised weights compared with float32: a transformer of Flux's kind with 8-bit floats and GGUF.

For each form: the size of the file, the memory that its weights take, what the process grows by until it has made two
calls and at the most, the seconds of the second call, the largest relative error of a weight and that of the answer.
Q4_K is rounded here to each block's range, without llama.cpp's search for a better one, so its errors are upper bounds.
Each form is measured in a process of its own, with one thread.

    python benchmarks/quantised.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import gguf
import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sigmafield.models.diffusers.source import pretrained

FORMS = ("float32", "bfloat16", "float8, per tensor", "float8, per row", "Q8_0", "Q5_0", "Q4_K", "Q4_0")
TOKENS, WORDS = 256, 64
CONFIG: dict[str, Any] = {
    "num_layers": 4, "num_single_layers": 8, "num_attention_heads": 8, "attention_head_dim": 96,
    "axes_dims_rope": (12, 42, 42), "joint_attention_dim": 768, "pooled_projection_dim": 256,
}  # fmt: skip
app = cyclopts.App(help=__doc__)


def resident(which: str = "VmRSS") -> float:
    """MB of memory that this process holds now, or has held at the most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / 1e6


def k_quants(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Q4_K: blocks of 8 × 32 numbers q·d·s − m·e of 4 bits, with s and m of 6 bits and d and e of 16."""
    x = weight.reshape(-1, 8, 32)
    least = np.minimum(x.min(-1), 0)
    step = (x.max(-1) - least) / 15
    d, e = (np.maximum(part.max(-1, keepdims=True) / 63, 1e-12).astype(np.float16) for part in (step, -least))
    s = np.clip(np.rint(step / d), 0, 63).astype(np.uint8)
    m = np.clip(np.rint(-least / e), 0, 63).astype(np.uint8)
    size = np.maximum(d.astype(np.float32) * s, 1e-12)[..., None]
    q = np.clip(np.rint((x + (e.astype(np.float32) * m)[..., None]) / size), 0, 15).astype(np.uint8)
    low = np.concatenate([s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6], -1)
    high = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    pairs = q.reshape(-1, 4, 2, 32)
    codes = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    out = np.concatenate([d.view(np.uint8), e.view(np.uint8), low, high, codes], -1)
    return out.reshape(weight.shape[0], -1)


def write(form: str, module: FluxTransformer2DModel, folder: Path) -> Path:
    """Writes the network to a folder in a form; layers only are quantised."""
    module.save_config(folder)
    weights = module.state_dict()
    block = 256 if form == "Q4_K" else 1
    layers = [name for name, value in weights.items() if value.ndim == 2 and value.shape[1] % block == 0]
    if form.startswith("float8"):
        out: dict[str, Tensor] = dict(weights)
        for name in layers:
            value = weights[name]
            scale = (value.abs().amax(1, keepdim=True) if form.endswith("row") else value.abs().amax()) / 448
            out[name] = (value / scale).to(torch.float8_e4m3fn)
            out[name.removesuffix("weight") + "weight_scale"] = scale
    elif "float" in form:
        out = {name: value.to(getattr(torch, form)) for name, value in weights.items()}
    else:
        writer = gguf.GGUFWriter(folder / "network.gguf", "flux")
        kind = gguf.GGMLQuantizationType[form]
        for name, value in weights.items():
            if name not in layers:
                writer.add_tensor(name, value.numpy())
            elif form == "Q4_K":
                writer.add_tensor(name, k_quants(value.numpy()), raw_dtype=kind)
            else:
                writer.add_tensor(name, gguf.quantize(value.numpy(), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / "network.gguf"
    save_file(out, folder / "diffusion_pytorch_model.safetensors")
    return folder / "diffusion_pytorch_model.safetensors"


def answer(module: Any, dtype: torch.dtype) -> Tensor:
    """The network's answer to random tokens."""
    seed = torch.Generator().manual_seed(1)
    x, text, pooled = (torch.randn(1, *s, generator=seed).to(dtype) for s in ((TOKENS, 64), (WORDS, 768), (256,)))
    ids = torch.stack([torch.zeros(TOKENS), *divmod_of(16)], -1)
    return module(x, text, pooled, torch.tensor([0.5]).to(dtype), ids, torch.zeros(WORDS, 3)).sample.float()


def divmod_of(side: int) -> tuple[Tensor, Tensor]:
    """Row and column of each position of a square."""
    i = torch.arange(side**2).float()
    return (i / side).floor(), i % side


@app.command(show=False)
@torch.no_grad()
def child(folder: Path, dtype: str) -> None:
    """Load a network, call it and print what that took."""
    torch.set_num_threads(1)
    precision = getattr(torch, dtype)
    before = resident()
    module = pretrained(FluxTransformer2DModel, folder, precision)
    answer(module, precision)
    began = time.perf_counter()
    out = answer(module, precision)
    seconds = time.perf_counter() - began
    held, most = resident() - before, resident("VmHWM") - before
    weights = sum(value.nbytes for value in [*module.parameters(), *module.buffers()]) / 1e6
    numbers = {name: value.float().contiguous() for name, value in module.state_dict().items()}
    save_file({"answer": out, **numbers}, folder / "out.safetensors")
    print(json.dumps({"weights": weights, "held": held, "most": most, "seconds": seconds}))


def error(got: Tensor, want: Tensor) -> float:
    """The relative error in the 2-norm."""
    return float((got - want).norm() / want.norm())


@app.default
@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    module = FluxTransformer2DModel(**CONFIG).eval()
    print(f"{sum(value.numel() for value in module.state_dict().values()) / 1e6:.0f} million weights\n")
    print("| form | file, MB | weights in memory, MB | process, MB | at the most, MB | seconds | weights | answer |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        want: dict[str, Tensor] = {}
        for form in FORMS:
            folder = Path(name) / form
            folder.mkdir()
            path = write(form, module, folder)
            dtype = "bfloat16" if form == "bfloat16" else "float32"
            command = [sys.executable, __file__, "child", str(folder), dtype]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            facts = json.loads(ran.stdout.splitlines()[-1])
            got = load_file(folder / "out.safetensors")
            want = want or got
            layers = [key for key, value in want.items() if value.ndim == 2]
            off = max(error(got[key], want[key]) for key in layers)
            row = [form, f"{path.stat().st_size / 1e6:.0f}", *(f"{facts[k]:.0f}" for k in ("weights", "held", "most"))]
            row += [f"{facts['seconds']:.2f}", f"{off:.1%}", f"{error(got['answer'], want['answer']):.1%}"]
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    app()
