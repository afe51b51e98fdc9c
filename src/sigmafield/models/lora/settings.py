"""What a LoRA file's header, or the file that peft writes next to it, says of α.

Every number is used once: a tensor of the layer comes first, then peft's settings, then kohya's α of the whole file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

Settings = Mapping[str, Mapping[str, Any]]
"""Peft's settings for each part of a model; those for all parts by the name `ANY_PART`."""

ANY_PART = ""

PEFT_HEADER = "lora_adapter_metadata"
"""Entry of the header in which diffusers keeps peft's settings: JSON, whose names begin with the part."""
PEFT_FILE = "adapter_config.json"
"""Where `PeftModel.save_pretrained` keeps them."""
KOHYA_HEADER = "ss_network_alpha"
PEFT_ALPHA = 8
"""Peft's α where its settings do not have one."""
ALPHAS = ("lora_alpha", "alpha")
"""Peft's names of α: LoRA's, and that of LoHa and LoKr."""


PEFT_TYPES = ("LORA", "LOHA", "LOKR")
"""Kinds of adapters, by peft's names, whose tensors are read."""


def settings_of(path: Path, header: Mapping[str, str], peft: bool) -> Settings:
    """Reads peft's settings.

    Args:
        path: The LoRA's file.
        header: Its metadata.
        peft: Whether its names are peft's own, whose settings are in another file.

    Raises:
        ValueError: If they are not JSON, α in them is not a number, or they say what is not supported.
    """
    where, text = f"{path}: {PEFT_HEADER}", header.get(PEFT_HEADER)
    if text is None and peft and (path.parent / PEFT_FILE).is_file():
        where, text = str(path.parent / PEFT_FILE), (path.parent / PEFT_FILE).read_text("utf-8", "replace")
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object; got {str(values)[:40]}")
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        part, dot, rest = name.partition(".")
        parts.setdefault(part if dot else ANY_PART, {})[rest if dot else name] = value
    for settings in parts.values():
        check(where, settings)
    return parts


def check(where: str, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for settings of one part that cannot be used."""
    kind = settings.get("peft_type")
    if kind is not None and kind not in PEFT_TYPES:
        raise ValueError(f"{where}: peft_type must be one of {', '.join(PEFT_TYPES)}; got {str(kind)[:40]!r}")
    for name in ("fan_in_fan_out", "layer_replication"):
        if settings.get(name):
            raise ValueError(f"{where}: {name} is not supported; got {str(settings[name])[:40]}")
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{where}: alpha_pattern must be an object; got {str(patterns)[:40]}")
    for pattern, alpha in [*patterns.items(), *((name, settings.get(name)) for name in ALPHAS)]:
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool) and math.isfinite(alpha)
        if alpha is not None and not number:
            raise ValueError(f"{where}: {pattern} must be a finite number; got {str(alpha)[:40]}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{where}: {pattern!r} of alpha_pattern is not a pattern ({error})") from None


def alpha_of_kohya(path: Path, header: Mapping[str, str], names: Iterable[str]) -> float | None:
    """The α of a whole file by kohya's names without a tensor of α; None where there is none.

    Raises:
        ValueError: If it is not a finite number.
    """
    names, text = list(names), header.get(KOHYA_HEADER, "None")
    if text == "None" or any(name.endswith(".alpha") or not name.startswith("lora_") for name in names):
        return None
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise ValueError(f"{path}: {KOHYA_HEADER} must be a finite number; got {text[:40]!r}")
    return alpha


def scale_of(own: Tensor | None, settings: Mapping[str, Any], layer: str, rank: int, whole: float | None) -> float:
    """The factor of a change: α/r, with rsLoRA α/√r; 1 where nothing says what α is.

    Args:
        own: The layer's tensor of α, if it has one.
        settings: Peft's settings for the part of the model.
        layer: The layer's name.
        rank: r.
        whole: The α of the whole file, if it has one.

    Raises:
        ValueError: If the layer's tensor is not one number.
    """
    if own is not None:
        if own.numel() != 1:
            raise ValueError("alpha is not one number", "×".join(map(str, own.shape)))
        alpha: float | None = float(own)
    elif settings.keys() & {*ALPHAS, "alpha_pattern", "use_rslora"}:
        patterns: Mapping[str, float] = settings.get("alpha_pattern") or {}
        named = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer))
        known = (settings[name] for name in ALPHAS if settings.get(name) is not None)
        alpha = next(named, next(known, PEFT_ALPHA))
    else:
        alpha = whole
    return 1.0 if alpha is None else alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
