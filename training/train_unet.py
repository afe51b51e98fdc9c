"""Train the UNet (and the text encoder with it, slower) to denoise the latents: v-prediction, plain squared error.

Three quarters of the timesteps are logit-normal (Esser et al., arXiv:2403.03206), where images take shape, the others
uniform. Convolutions run in bfloat16, attention in float32: bfloat16 spoils its gradients on some CPUs.
Writes the averaged (EMA) weights every --save steps into --out, and the loss curve into --out/curve.csv.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import UNET_CONFIG, Captioned
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from transformers import CLIPTextModel


class Average:
    """Exponential moving average of some modules' weights."""

    def __init__(self, modules, decay):
        self.params = [p for m in modules for p in m.parameters()]
        self.shadow = [p.detach().clone() for p in self.params]
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self):
        """Take the present weights in."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.shadow, self.params, 1 - decay)

    @torch.no_grad()
    def swap(self):
        """Exchange the averages and the present weights."""
        for p, s in zip(self.params, self.shadow, strict=True):
            kept = p.clone()
            p.copy_(s)
            s.copy_(kept)


def in_float32(module):
    """Make a module leave autocast: its inputs and everything inside are float32."""
    forward = module.forward

    def wide(value):
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    def run(*args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return forward(*map(wide, args), **{k: wide(v) for k, v in kwargs.items()})

    module.forward = run


def timesteps(count):
    """Random timesteps, three quarters logit-normal and the others uniform, each part stratified."""
    even = count // 4
    strata = lambda n: (torch.arange(n) + torch.rand(n)) / n  # noqa: E731
    shares = torch.cat([strata(even), torch.special.ndtri(strata(count - even)).sigmoid()])
    return (shares * 1000).long().clamp(max=999)


def noised(x, noise, t, alphas):
    """The noisy latents at the timesteps t and their v targets."""
    a = alphas[t].sqrt()[:, None, None, None]
    s = (1 - alphas[t]).sqrt()[:, None, None, None]
    return a * x + s * noise, a * noise - s * x


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    ap.add_argument("--text", type=Path, default=Path("text_encoder"))
    ap.add_argument("--init", type=Path, help="the output folder of an earlier run: start from its UNet")
    ap.add_argument("--out", type=Path, default=Path("unet"))
    ap.add_argument("--steps", type=int, default=7000)
    ap.add_argument("--stop", type=int, help="end after this step, on the way that --steps plans")
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--text-lr", type=float, default=0.1, help="the text encoder's rate as a share of --lr")
    ap.add_argument("--flat", type=float, default=0.4, help="share of the steps before the linear decay to 1 %%")
    ap.add_argument("--ema", type=float, default=0.999)
    ap.add_argument("--empty", type=float, default=0.1, help="share of empty captions")
    ap.add_argument("--turned", type=float, default=0.17, help="share of turned hues, where there are some")
    ap.add_argument("--save", type=int, default=250, help="steps between checkpoints")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    data = Captioned(args.data, args.tokenizer)
    alphas = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    text = CLIPTextModel.from_pretrained(args.text).float()
    if args.init:
        unet = UNet2DConditionModel.from_pretrained(args.init / "unet")
    else:
        unet = UNet2DConditionModel(**UNET_CONFIG)
    unet.train().to(memory_format=torch.channels_last)
    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            in_float32(module)
    groups = [{"params": unet.parameters(), "lr": args.lr}, {"params": text.parameters(), "lr": args.text_lr * args.lr}]
    opt = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    warm, flat = 200, args.flat * args.steps
    rate = lambda s: min((s + 1) / warm, 1 - 0.99 * max(0, s - flat) / (args.steps - flat))  # noqa: E731
    plan = torch.optim.lr_scheduler.LambdaLR(opt, rate)
    average = Average([unet, text], args.ema)

    fixed = np.random.default_rng(1)
    eval_picks = np.array([data.draw(fixed, c, args.turned) for c in fixed.permutation(len(data.rows))[:256]])
    eval_ids = data.tokens([data.text(fixed, i, 0.0) for i in eval_picks])
    count = len(eval_picks)
    eval_t = torch.arange(count) * 1000 // count
    eval_noise = torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    eval_noisy, eval_v = noised(data.latents[eval_picks], eval_noise, eval_t, alphas)

    start, losses = time.time(), []
    curve = (args.out / "curve.csv").open("w")
    curve.write("step,images,seconds,train,eval\n")
    end = args.stop or args.steps
    for step in range(1, end + 1):
        captions = rng.integers(0, len(data.rows), args.batch)
        picks = np.array([data.draw(rng, c, args.turned) for c in captions])
        ids = data.tokens([data.text(rng, i, args.empty) for i in picks])
        x = data.latents[picks]
        t = timesteps(args.batch)
        noisy, v = noised(x, torch.randn_like(x), t, alphas)
        states = text(ids).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = unet(noisy.contiguous(memory_format=torch.channels_last), t, states).sample
        loss = F.mse_loss(guess.float(), v)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*unet.parameters(), *text.parameters()], 1.0, foreach=True)
        opt.step()
        plan.step()
        average.update()
        losses.append(loss.item())
        if step % 250 == 0 or step == end:
            average.swap()
            with torch.no_grad():
                error = F.mse_loss(unet(eval_noisy, eval_t, text(eval_ids).last_hidden_state).sample, eval_v).item()
            if step % args.save == 0 or step == end:
                unet.save_pretrained(args.out / "unet")
                text.save_pretrained(args.out / "text_encoder")
            average.swap()
            seconds = time.time() - start
            curve.write(f"{step},{step * args.batch},{seconds:.0f},{np.mean(losses):.5f},{error:.5f}\n")
            curve.flush()
            print(f"step {step} {seconds:.0f} s train {np.mean(losses):.4f} eval {error:.4f}", flush=True)
            losses = []


if __name__ == "__main__":
    main()
