"""Devices and dtypes by their names."""

from __future__ import annotations

import torch

from sigmafield.core.registry import near_miss

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps", "apple": "mps"}
"""What people call devices, and what torch calls them."""


def choose_device(device: str | torch.device | None) -> torch.device:
    """Finds a device by name, or the best one; raises ValueError for one that is unknown or not available."""
    ready = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [name for name, is_there in ready.items() if is_there]
    if device is None:
        return torch.device(there[0])
    kind, _, index = str(device).partition(":")
    if kind not in ready or (index and not index.isdecimal()):
        other = OTHER_NAMES.get(kind.lower())
        meant = f"; torch calls it {other}" if other else near_miss(kind, ("cuda", "mps", "cpu"))
        raise ValueError(f"unknown device {str(device)!r}{meant}")
    if kind not in there:
        raise ValueError(f"device {str(device)!r} is not available here; available: {', '.join(there)}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r}: there are {torch.cuda.device_count()} cuda devices, numbered from 0")
    return torch.device(device)


def choose_dtype(dtype: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """Finds a dtype by name, or takes the default; raises ValueError for an unknown one."""
    if dtype is None:
        return default
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}{near_miss(name, DTYPES)}")
    return DTYPES[name]
