"""Put the trained flow transformer into a folder in the diffusers layout, without the parts that it shares."""

import argparse
import json
import shutil
from pathlib import Path

INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    "num_train_timesteps": 1000,
    "shift": 1.0,
}


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--flow", type=Path, default=Path("flow"), help="the output folder of train_flow.py")
    ap.add_argument("--out", type=Path, default=Path("tiny-flow"))
    args = ap.parse_args()
    for part in ("transformer", "scheduler"):
        (args.out / part).mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copyfile(args.flow / name, args.out / "transformer" / name)
    (args.out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (args.out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
