"""Train the small flow transformer on the latents: squared error of the velocity. The text encoder stays as it is.

    x = (1 − t) latent + t noise,   target = noise − latent

Of half of the images every token has the same t, logit-normal (Esser et al., arXiv:2403.03206) for three in four and
uniform for the others; of the other half a rectangle of tokens has another t than the rest, so that the network knows
fields (Chen et al., arXiv:2407.01392). Everything is written into --out every --save steps, and the same command goes
on from there.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import Captioned
from muon import Muon
from safetensors.torch import save_file
from train_unet import Average
from transformers import CLIPTextModel

from sigmafield.models.tiny.transformer import ONLY, TransformerConfig, WanTransformer3DModel

SIDE = 8
"""Tokens along a side of the latents."""


def levels(count, rng):
    """Random levels t in (0, 1): three quarters logit-normal, the others uniform, each part stratified; shuffled."""
    even = count // 4
    strata = lambda n: (torch.arange(n) + torch.rand(n)) / n  # noqa: E731
    t = torch.cat([strata(even), torch.special.ndtri(strata(count - even)).sigmoid()])
    return t[torch.from_numpy(rng.permutation(count))].clamp(1e-4, 1 - 1e-4)


def fields(count, rng):
    """Levels of each token, [count, SIDE, SIDE]: the first half of the rows has one level, the others two."""
    t = levels(count, rng)[:, None, None].repeat(1, SIDE, SIDE)
    other = levels(count, rng)
    for row in range(count // 2, count):
        top, left = rng.integers(0, SIDE - 1, 2)
        bottom, right = rng.integers(top + 1, SIDE + 1), rng.integers(left + 1, SIDE + 1)
        t[row, top:bottom, left:right] = other[row]
    return t


def noised(x, noise, t):
    """The noisy latents at levels t [rows, SIDE, SIDE], and the velocities."""
    at = t[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (1 - at) * x + at * noise, noise - x


def initialised(model):
    """The model with gates and output at zero, so that every block begins as the identity."""
    for name, p in model.named_parameters():
        if p.ndim == 2:
            torch.nn.init.xavier_uniform_(p)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(p)
    for layer in (model.condition_embedder.time_proj, model.proj_out):
        torch.nn.init.zeros_(layer.weight)
    for block in model.blocks:
        torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.02)
    return model


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("varied"))
    ap.add_argument("--tiny", type=Path, default=Path("../src/sigmafield/data/tiny"), help="text encoder and tokenizer")
    ap.add_argument("--out", type=Path, default=Path("flow"))
    ap.add_argument("--steps", type=int, default=16000)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=2e-3, help="of the matrices of the blocks; half of it for the others")
    ap.add_argument("--flat", type=float, default=0.6, help="share of the steps before the linear decay to 1 %%")
    ap.add_argument("--ema", type=float, default=0.999)
    ap.add_argument("--empty", type=float, default=0.1, help="share of empty captions")
    ap.add_argument("--turned", type=float, default=0.17, help="share of turned hues, where there are some")
    ap.add_argument("--save", type=int, default=250, help="steps between checkpoints")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    data = Captioned(args.data, args.tiny / "tokenizer")
    text = CLIPTextModel.from_pretrained(args.tiny / "text_encoder").float().eval().requires_grad_(False)
    config = {**asdict(TransformerConfig()), **ONLY}
    model = initialised(WanTransformer3DModel(config))
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    opts = [Muon(matrices, args.lr), torch.optim.AdamW(others, args.lr / 2, (0.9, 0.99), weight_decay=0, fused=True)]
    warm, flat = 300, args.flat * args.steps
    rate = lambda s: min((s + 1) / warm, 1 - 0.99 * max(0, s - flat) / (args.steps - flat))  # noqa: E731
    plans = [torch.optim.lr_scheduler.LambdaLR(opt, rate) for opt in opts]
    average = Average([model], args.ema)

    fixed = np.random.default_rng(1)
    picks = np.array([data.draw(fixed, c, args.turned) for c in fixed.permutation(len(data.rows))[:128]])
    with torch.no_grad():
        eval_text = text(data.tokens([data.text(fixed, i, 0.0) for i in picks])).last_hidden_state
    eval_t = ((torch.arange(len(picks)) + 0.5) / len(picks))[:, None, None].repeat(1, SIDE, SIDE)
    eval_noise = torch.randn(len(picks), 4, 16, 16, generator=torch.Generator().manual_seed(1))
    eval_noisy, eval_v = noised(data.latents[picks], eval_noise, eval_t)

    first, spent, checkpoint = 1, 0.0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(kept["model"])
        for each, state in zip([*opts, *plans], kept["opts"] + kept["plans"], strict=True):
            each.load_state_dict(state)
        average.shadow, average.count = kept["shadow"], kept["count"]
        rng.bit_generator.state = kept["rng"]
        torch.set_rng_state(kept["torch"])
        first, spent = kept["step"] + 1, kept["spent"]
        print(f"going on after step {kept['step']}", flush=True)
    curve = (args.out / "curve.csv").open("a")
    began, losses = time.process_time(), []
    for step in range(first, args.steps + 1):
        captions = rng.integers(0, len(data.rows), args.batch)
        picks = np.array([data.draw(rng, c, args.turned) for c in captions])
        with torch.no_grad():
            states = text(data.tokens([data.text(rng, i, args.empty) for i in picks])).last_hidden_state
        x, t = data.latents[picks], fields(args.batch, rng)
        noisy, v = noised(x, torch.randn_like(x), t)
        loss = F.mse_loss(model(noisy, 1000 * t.flatten(1), states), v)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for each in [*opts, *plans]:
            each.step()
        average.update()
        losses.append(loss.item())
        if step % args.save and step != args.steps:
            continue
        average.swap()
        with torch.no_grad():
            error = F.mse_loss(model(eval_noisy, 1000 * eval_t.flatten(1), eval_text), eval_v).item()
        half = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(half, args.out / "diffusion_pytorch_model.safetensors")
        (args.out / "config.json").write_text(
            json.dumps({"_class_name": type(model).__name__, **config}, indent=2) + "\n"
        )
        average.swap()
        seconds = spent + time.process_time() - began
        kept = {
            "model": model.state_dict(), "opts": [each.state_dict() for each in opts],
            "plans": [each.state_dict() for each in plans], "shadow": average.shadow, "count": average.count,
            "rng": rng.bit_generator.state, "torch": torch.get_rng_state(), "step": step,
            "spent": seconds,
        }  # fmt: skip
        torch.save(kept, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        curve.write(f"{step},{step * args.batch},{seconds:.0f},{np.mean(losses):.5f},{error:.5f}\n")
        curve.flush()
        print(f"step {step} {seconds:.0f} s of CPU train {np.mean(losses):.4f} eval {error:.4f}", flush=True)
        losses = []


if __name__ == "__main__":
    main()
