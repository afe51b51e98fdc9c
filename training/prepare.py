"""Draw the training images: SVG emoji of several designs -> 128x128 masters -> a pool of augmented 64x64 images.

Reads the npm packages of the emoji sets (see README.md for how to fetch them) and writes into --out:
  masters.npz   premultiplied RGBA masters, caption and set of each
  pool.npz      augmented RGB images on white, the master of each, and a colour word where the hue was changed;
                also the colour word of each unchanged master ("" where no hue dominates)
  captions.json the captions and their tags
"""

import argparse
import colorsys
import io
import json
import re
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SETS = ["noto", "noto-v1", "fluent-emoji-flat", "fxemoji"]
MASTER, SIZE = 128, 64
HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 120, "blue": 215, "purple": 275, "pink": 330}
COLOURS = set(HUES) | {"black", "white", "brown"}


def svg(icons, name):
    """The SVG text of one icon of an iconify set, or None."""
    parent = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(parent)
    if icon is None:
        return None
    w, h = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{icon["body"]}</svg>'


def render(text):
    """A square premultiplied RGBA float image, cropped to the ink and centred."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=256, height=256))
    a = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32) / 255
    ys, xs = np.where(a[..., 3] > 0.05)
    if len(ys) == 0:
        return None
    y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    side = max(y1 - y0, x1 - x0)
    square = np.zeros((side, side, 4), np.float32)
    oy, ox = (side - (y1 - y0)) // 2, (side - (x1 - x0)) // 2
    square[oy : oy + y1 - y0, ox : ox + x1 - x0] = a[y0:y1, x0:x1]
    square[..., :3] *= square[..., 3:]
    planes = [np.asarray(Image.fromarray(square[..., c]).resize((MASTER, MASTER), Image.LANCZOS)) for c in range(4)]
    return np.clip(np.stack(planes, -1), 0, 1)


def rotate_hue(rgba, degrees):
    """The YIQ hue rotation: keeps brightness, turns every colour by the same angle."""
    t = np.deg2rad(degrees)
    to = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    turn = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    out = rgba.copy()
    out[..., :3] = np.clip(rgba[..., :3] @ (np.linalg.inv(to) @ turn @ to).T, 0, rgba[..., 3:])
    return out.astype(np.float32)


def dominant_hue(rgba):
    """(hue in degrees, share of the ink within 40 degrees of it); share 0 where there is little colour."""
    ink = rgba[::2, ::2].reshape(-1, 4)
    ink = ink[ink[:, 3] > 0.5]
    rgb = ink[:, :3] / ink[:, 3:]
    top, low = rgb.max(1), rgb.min(1)
    strong = (top - low > 0.25) & (top > 0.3)
    if strong.sum() < 20:
        return 0.0, 0.0
    hue = np.array([colorsys.rgb_to_hsv(*p)[0] * 360 for p in rgb[strong]])
    histogram = np.bincount((hue // 10).astype(int) % 36, minlength=36)
    around = sum(np.roll(histogram, k) for k in (-1, 0, 1))
    peak = around.argmax() * 10 + 5
    away = (hue - peak + 180) % 360 - 180
    near = np.abs(away) < 40
    return float(peak + np.median(away[near])) % 360, float(near.sum() / len(ink))


def brightness(rgba):
    """The median value (largest of red, green, blue) of the ink: tells orange from brown."""
    ink = rgba[rgba[..., 3] > 0.5]
    return float(np.median(ink[:, :3].max(1) / ink[:, 3]))


def colour_word(hue):
    """The colour word nearest to a hue."""
    return min(HUES, key=lambda w: abs((HUES[w] - hue + 180) % 360 - 180))


def place(rgba, rng, scale, angle, mirror):
    """Scale, turn and shift a master into a white 64x64 image with the object inside."""
    if mirror:
        rgba = rgba[:, ::-1]
    t = np.deg2rad(angle)
    c, s = np.cos(t), np.sin(t)
    ys, xs = np.where(rgba[..., 3] > 0.1)
    p = np.stack([xs, ys]) - (MASTER - 1) / 2
    q = np.array([[c, -s], [s, c]]) @ p
    unit = (SIZE - 4) / MASTER * scale
    fit = min(1.0, (SIZE - 2) / (unit * max(np.ptp(q[0]), np.ptp(q[1]))))
    unit *= fit
    q = q * unit
    low, high = 1 - q.min(1), SIZE - 2 - q.max(1)
    cx, cy = (rng.uniform(min(a, b), max(a, b)) for a, b in zip(low, high, strict=True))
    # output -> input, supersampled twice and box-averaged
    k = 1 / (2 * unit)
    a, b = c * k, s * k
    ox, oy = 2 * cx + 0.5, 2 * cy + 0.5
    m = (MASTER - 1) / 2
    matrix = (a, b, m - a * ox - b * oy, -b, a, m + b * ox - a * oy)
    planes = []
    for i in range(4):
        plane = Image.fromarray(np.ascontiguousarray(rgba[..., i]))
        big = plane.transform((2 * SIZE, 2 * SIZE), Image.AFFINE, matrix, Image.BILINEAR)
        planes.append(np.asarray(big).reshape(SIZE, 2, SIZE, 2).mean((1, 3)))
    out = np.stack(planes, -1)
    return np.clip((out[..., :3] + 1 - out[..., 3:]) * 255 + 0.5, 0, 255).astype(np.uint8)


def read_captions(path, narrow):
    """[(caption, may be mirrored, icon names)] from captions.txt."""
    rows = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#") and not (narrow and line.startswith("-")):
            caption, names = (s.strip() for s in line.lstrip("- ").split("="))
            rows.append((caption.rstrip("!"), not caption.endswith("!"), [n.strip() for n in names.split(",")]))
    return rows


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--npm", type=Path, required=True, help="folder with noto/icons.json, ..., emojibase/en/data.json")
    ap.add_argument("--captions", type=Path, default=Path(__file__).with_name("captions.txt"))
    ap.add_argument("--narrow", action="store_true", help='leave out the captions marked "-"')
    ap.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    ap.add_argument("--out", type=Path, default=Path("data"))
    ap.add_argument("--copies", type=int, default=24, help="augmented images per master")
    ap.add_argument("--hue", type=float, default=0.18, help="share of copies with a turned hue")
    ap.add_argument("--scale", type=float, nargs=2, default=(0.7, 1.0))
    ap.add_argument("--angle", type=float, default=12.0, help="largest rotation in degrees")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    icons = {s: json.loads((args.npm / s / "icons.json").read_text()) for s in args.sets}
    base = json.loads((args.npm / "emojibase" / "en" / "data.json").read_text())
    tags = {re.sub(r"[^a-z0-9]+", "-", e["label"].lower()).strip("-"): e.get("tags", []) for e in base}

    masters, owner, source, listing, mirrors = [], [], [], [], []
    for caption, mirror, names in read_captions(args.captions, args.narrow):
        found = []
        for s in args.sets:
            wanted = [n[3:] for n in names if n.startswith("fx:")] if s == "fxemoji" else names
            for name in wanted:
                text = svg(icons[s], name)
                image = render(text) if text else None
                if image is not None:
                    found.append((s, image))
                    break
        if len(found) < 2:
            print("too few designs:", caption, [s for s, _ in found])
            continue
        words = next((tags[n] for n in names if n in tags), [])
        words = [w for w in words if re.fullmatch("[a-z ]{3,}", w) and w not in caption and w not in COLOURS][:8]
        for s, image in found:
            masters.append(image)
            owner.append(len(listing))
            source.append(s)
        listing.append({"caption": caption, "tags": words})
        mirrors.append(mirror)
    print(len(listing), "captions,", len(masters), "masters", {s: source.count(s) for s in args.sets})

    rng = np.random.default_rng(args.seed)
    pool, pool_master, pool_word, natural = [], [], [], []
    for i, master in enumerate(masters):
        hue, share = dominant_hue(master)
        natural.append(colour_word(hue) if share > 0.5 and brightness(master) > 0.8 else "")
        for _ in range(args.copies):
            rgba, word = master, ""
            if share > 0.35 and rng.random() < args.hue:
                turn = rng.uniform(40, 320)
                turned = rotate_hue(master, turn)
                new_hue, new_share = dominant_hue(turned)
                if new_share > 0.3 and colour_word(new_hue) != colour_word(hue):
                    rgba, word = turned, colour_word(new_hue)
            mirror = mirrors[owner[i]] and rng.random() < 0.5
            scale, angle = rng.uniform(*args.scale), rng.uniform(-args.angle, args.angle)
            pool.append(place(rgba, rng, scale, angle, mirror))
            pool_master.append(i)
            pool_word.append(word)
    pool = np.stack(pool)
    stacked = (np.stack(masters) * 255 + 0.5).astype(np.uint8)
    np.savez_compressed(args.out / "masters.npz", rgba=stacked, caption=np.array(owner), set=np.array(source))
    np.savez(args.out / "pool.npz", rgb=pool, master=pool_master, word=pool_word, natural=natural)
    (args.out / "captions.json").write_text(json.dumps(listing, indent=1) + "\n")
    print(len(pool), "images,", sum(w != "" for w in pool_word), "with a turned hue")


if __name__ == "__main__":
    main()
