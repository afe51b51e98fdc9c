"""Put the trained parts together into one half-precision model folder in the diffusers layout."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def drop_path(config):
    """Take the local path that diffusers notes out of a saved config."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--vae", type=Path, default=Path("vae_tuned"))
    ap.add_argument("--unet", type=Path, default=Path("unet"), help="the output folder of train_unet.py")
    ap.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    ap.add_argument("--out", type=Path, default=Path("tiny"))
    args = ap.parse_args()

    AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float16).save_pretrained(args.out / "vae")
    unet = UNet2DConditionModel.from_pretrained(args.unet / "unet", torch_dtype=torch.float16)
    unet.save_pretrained(args.out / "unet")
    text = CLIPTextModel.from_pretrained(args.unet / "text_encoder", dtype=torch.float16)
    text.save_pretrained(args.out / "text_encoder")
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    ).save_pretrained(args.out / "scheduler")
    for part in ("vae", "unet"):
        drop_path(args.out / part / "config.json")
    (args.out / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(args.tokenizer / name, args.out / "tokenizer" / name)
    (args.out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    labels = [row["caption"] for row in json.loads((args.data / "captions.json").read_text())]
    (args.out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
