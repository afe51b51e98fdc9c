"""Train the autoencoder (64x64 image <-> 16x16x4 latent) on the pool of images, then whiten its latents.

The loss is L1 + gradient L1 + chroma L1 + L1 of the 4x4 averages + a small KL term; the last two image terms keep the
hues right. Whitening folds the mean and deviation of every latent channel into the 1x1 convolutions around the
latent, so that the latents have mean 0 and deviation 1 and `scaling_factor` is 1.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

CONFIG = {
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "sample_size": 64,
    "scaling_factor": 1.0,
}


def chroma(x):
    """Colour differences of an RGB batch: zero for greys."""
    return torch.stack([x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]], 1)


def image_loss(y, x):
    """How far the images y are from x."""
    loss = F.l1_loss(y, x) + 0.5 * F.l1_loss(chroma(y), chroma(x))
    loss = loss + 0.5 * (F.l1_loss(y.diff(dim=2), x.diff(dim=2)) + F.l1_loss(y.diff(dim=3), x.diff(dim=3)))
    return loss + F.l1_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4))


def batch(pool, rng, size, side, permute):
    """Random images (cropped to side x side) as a batch in [-1, 1]; some with their channels permuted."""
    pick = rng.integers(0, len(pool), size)
    ys, xs = rng.integers(0, 65 - side, (2, size))
    out = np.empty((size, side, side, 3), np.float32)
    for i in range(size):
        p = pool[pick[i], ys[i] : ys[i] + side, xs[i] : xs[i] + side]
        out[i] = p[..., rng.permutation(3)] if rng.random() < permute else p
    return torch.from_numpy(out).permute(0, 3, 1, 2).div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(vae, pool, picks):
    """Mean PSNR in dB of the reconstructions of some pool images."""
    x = torch.from_numpy(pool[picks]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return (-10 * ((y - x) / 2).square().mean((1, 2, 3)).log10()).mean().item()


@torch.no_grad()
def whiten(vae, pool, picks):
    """Fold the mean and deviation of every latent channel into quant_conv and post_quant_conv."""
    x = torch.from_numpy(pool[picks]).permute(0, 3, 1, 2).float() / 127.5 - 1
    z = torch.cat([vae.encode(b).latent_dist.mean for b in x.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
    return mean.tolist(), std.tolist()


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--out", type=Path, default=Path("vae"))
    ap.add_argument("--crop-steps", type=int, default=2200, help="steps on 32x32 crops")
    ap.add_argument("--whole-steps", type=int, default=750, help="steps on whole images")
    ap.add_argument("--crop-batch", type=int, default=16)
    ap.add_argument("--whole-batch", type=int, default=8)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--permute", type=float, default=0.3, help="share of images with permuted colour channels")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pool = np.load(args.data / "pool.npz")["rgb"]
    held = np.random.default_rng(1).choice(len(pool), 64, replace=False)
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    steps = args.crop_steps + args.whole_steps
    opt = torch.optim.AdamW(vae.parameters(), lr=args.lr, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=steps + 1, pct_start=0.05, final_div_factor=50)
    start = time.time()
    for step in range(steps):
        crop = step < args.crop_steps
        x = batch(pool, rng, args.crop_batch if crop else args.whole_batch, 32 if crop else 64, args.permute)
        dist = vae.encode(x).latent_dist
        y = vae.decode(dist.sample()).sample
        kl = 0.5 * (dist.mean.square() + dist.logvar.exp() - 1 - dist.logvar).mean()
        loss = image_loss(y, x) + 2e-4 * kl
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        plan.step()
        if (step + 1) % 250 == 0 or step == steps - 1:
            seconds, quality = time.time() - start, psnr(vae, pool, held)
            print(f"step {step + 1} {seconds:.0f} s loss {loss.item():.4f} psnr {quality:.2f} dB", flush=True)
    mean, std = whiten(vae, pool, np.random.default_rng(2).choice(len(pool), 1024, replace=False))
    print("whitened from mean", [round(m, 3) for m in mean], "deviation", [round(s, 3) for s in std])
    print(f"psnr after whitening {psnr(vae, pool, held):.2f} dB")
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()
