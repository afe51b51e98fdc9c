"""Train the decoder further with the encoder frozen, on slightly noisy latents: sharper, and more forgiving.

The latents keep their meaning, so this can run after (or during) the UNet training.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from train_vae import image_loss, psnr


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--vae", type=Path, default=Path("vae"))
    ap.add_argument("--out", type=Path, default=Path("vae_tuned"))
    ap.add_argument("--steps", type=int, default=3000)
    ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--noise", type=float, default=0.1, help="largest deviation of the noise on the latents")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pool = np.load(args.data / "pool.npz")["rgb"]
    latents = np.load(args.data / "latents.npy")
    held = np.random.default_rng(1).choice(len(pool), 64, replace=False)
    vae = AutoencoderKL.from_pretrained(args.vae).to(memory_format=torch.channels_last)
    params = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    opt = torch.optim.AdamW(params, lr=args.lr, weight_decay=1e-4, fused=True)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=args.steps + 1, pct_start=0.05)
    print(f"before: psnr {psnr(vae, pool, held):.2f} dB")
    start = time.time()
    for step in range(1, args.steps + 1):
        picks = rng.choice(len(pool), args.batch, replace=False)
        x = torch.from_numpy(pool[picks]).permute(0, 3, 1, 2).float() / 127.5 - 1
        z = torch.from_numpy(latents[picks])
        z = z + torch.rand(args.batch, 1, 1, 1) * args.noise * torch.randn_like(z)
        loss = image_loss(vae.decode(z.contiguous(memory_format=torch.channels_last)).sample, x)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        plan.step()
        if step % 250 == 0 or step == args.steps:
            seconds = time.time() - start
            print(f"step {step} {seconds:.0f} s loss {loss.item():.4f} psnr {psnr(vae, pool, held):.2f} dB", flush=True)
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()
