"""Widgets that several nodes have: numbers with the ranges and increments of ComfyUI's interface."""

from __future__ import annotations

from typing import Annotated

from sigmafield.comfyui.sockets import Input, Seed
from sigmafield.core.annotations import Range

Prompt = Annotated[str, Input(multiline=True, dynamic_prompts=True)]
Drawn = Annotated[Seed, Range(0, 2**64 - 1)]
"""A seed."""
Batch = Annotated[int, Range(1, 4096)]
"""Number of images or videos."""
StepCount = Annotated[int, Range(1, 10000)]
StepIndex = Annotated[int, Range(0, 10000)]
Cfg = Annotated[float, Range(0, 100), Input(step=0.1, round=0.01)]
"""A guidance scale."""
Distilled = Annotated[float, Range(0, 100), Input(step=0.1)]
"""A scale of distilled guidance."""
Share = Annotated[float, Range(0, 1), Input(step=0.01)]
Percent = Annotated[float, Range(0, 1), Input(step=0.001)]
"""A share of the way through sampling."""
Strength = Annotated[float, Range(0, 10), Input(step=0.01)]
Strong = Annotated[float, Range(0, 10), Input(step=0.1)]
Scale = Annotated[float, Range(0, 100), Input(step=0.01)]
Amount = Annotated[float, Range(0, 100), Input(step=0.01, round=False)]
"""An amount of noise, or a tolerance."""
Level = Annotated[float, Range(0, 5000), Input(step=0.01, round=False)]
"""A noise level σ."""
FarLevel = Annotated[float, Range(0, 1000), Input(step=0.001, round=False)]
"""An end of a network's noise levels."""
Pixels = Annotated[int, Range(0, 16384)]
ImageSide = Annotated[int, Range(16, 16384), Input(step=8)]
Side16 = Annotated[int, Range(16, 16384), Input(step=16)]
Side = Annotated[int, Range(64, 16384), Input(step=8)]
"""A side of an area in pixels."""
Offset = Annotated[int, Range(0, 16384), Input(step=8)]
"""An edge of an area in pixels."""
