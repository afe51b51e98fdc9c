"""VIDEO and AUDIO: moving images and sound as nodes pass them to each other, and as files, through PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from sigmafield.core.registry import shown

DEEP = 8
"""Bits per channel above which frames are read with 16. All are converted by one thread: with several, FFmpeg's library
writes wrong pixels into deep frames whose width is not a multiple of 16."""


class Sound(TypedDict):
    """Sound.

    waveform: [B, channels, samples] in −1 … 1. sample_rate: samples per second.
    """

    waveform: Tensor
    sample_rate: int


@runtime_checkable
class VideoValue(Protocol):
    """What nodes ask a video for; methods have ComfyUI's names, so that custom nodes can call them."""

    def get_components(self) -> Video: ...
    def get_dimensions(self) -> tuple[int, int]: ...
    def get_duration(self) -> float: ...
    def part(self, start: float, duration: float) -> VideoValue: ...


@dataclass(frozen=True, eq=False)
class Video:
    """A video in memory.

    Args:
        images: Frames [B, H, W, C] in [0, 1].
        frame_rate: Frames per second.
        audio: The sound, if any.
        bit_depth: Bits per channel: 8 or 10.
    """

    images: Tensor = field(repr=False)
    frame_rate: Fraction
    audio: Sound | None = field(default=None, repr=False)
    bit_depth: int = 8

    def get_components(self) -> Video:
        """The frames, the sound and the rate: itself."""
        return self

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.images.shape[2], self.images.shape[1]

    def get_frame_count(self) -> int:
        """The number of frames."""
        return len(self.images)

    def get_frame_rate(self) -> Fraction:
        """Frames per second."""
        return self.frame_rate

    def get_duration(self) -> float:
        """Seconds."""
        return float(len(self.images) / self.frame_rate)

    def part(self, start: float, duration: float) -> Video:
        """The frames that begin in start ≤ t < start + duration, with their sound; in seconds."""
        first, end = (int(np.ceil(float(t * self.frame_rate) - 1e-6)) for t in (start, start + duration))
        return Video(self.images[first:end], self.frame_rate, _cut(self.audio, start, duration), self.bit_depth)


@dataclass(frozen=True)
class VideoFile:
    """A video in a file, which is read when its frames are asked for.

    Args:
        path: The file.
        start: Where it begins, in seconds.
        duration: How long it is; None: to the end.
    """

    path: Path
    start: float = 0.0
    duration: float | None = None

    def get_components(self) -> Video:
        """The frames, the sound and the rate."""
        return read_video(self.path, self.start, self.duration)

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with opened(self.path) as file:
            stream = first_stream(file, "video", self.path)
            return stream.width, stream.height

    def get_duration(self) -> float:
        """Seconds."""
        if self.duration is not None:
            return self.duration
        with opened(self.path) as file:
            return file.duration / 1e6 - self.start

    def part(self, start: float, duration: float) -> VideoFile:
        """The frames that begin in start ≤ t < start + duration, with their sound; in seconds."""
        return VideoFile(self.path, self.start + start, duration)


def _cut(sound: Sound | None, start: float, duration: float | None) -> Sound | None:
    """The part of a sound; duration None: to the end."""
    if sound is None:
        return None
    rate = sound["sample_rate"]
    end = None if duration is None else round((start + duration) * rate)
    return {"waveform": sound["waveform"][..., round(start * rate) : end], "sample_rate": rate}


def pyav() -> Any:
    """PyAV; ImportError that says how to get it."""
    try:
        import av
    except ImportError:
        raise ImportError(
            "videos, sound and AVIF files of 10 bits or HDR need PyAV: pip install 'sigmafield[video]'"
        ) from None
    return av


def opened(path: Path) -> Any:
    """A file of a video or of sound. FileNotFoundError or ValueError if it cannot be read."""
    av = pyav()
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        return av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(f"cannot read {path} as a video or sound: {error}") from None


def first_stream(file: Any, kind: str, path: Path) -> Any:
    """The first stream of a kind, "video" or "audio"; ValueError without one."""
    streams = getattr(file.streams, kind)
    if not streams:
        raise ValueError(f"{path} has no {kind}")
    return streams[0]


def texts_in(path: Path) -> dict[str, str]:
    """The texts that a video or a sound carries, by name in lower case: some formats write names in capitals."""
    with opened(path) as file:
        tables: list[Mapping[str, str]] = [file.metadata, *(each.metadata for each in file.streams)]
        return {name.lower(): text for table in reversed(tables) for name, text in table.items()}


def read_video(path: Path, start: float = 0.0, duration: float | None = None) -> Video:
    """The frames of a file that begin in start ≤ t < start + duration, with their sound; in seconds.

    Raises:
        ValueError: It has no frames there.
    """
    with opened(path) as file:
        stream = first_stream(file, "video", path)
        bits = max(each.bits for each in stream.format.components)
        form, most = ("rgb24", 255) if bits <= DEEP else ("rgb48le", 65535)
        end = float("inf") if duration is None else start + duration
        frames: list[Tensor] = []
        for frame in file.decode(stream):
            time = (frame.time or 0.0) + 1e-6
            if time >= end:
                break
            if time >= start:
                pixels = frame.reformat(format=form, threads=1).to_ndarray().astype(np.float32)
                frames.append(torch.from_numpy(pixels) / most)
        rate = Fraction(stream.average_rate or 24)
        sounds = bool(file.streams.audio)
    if not frames:
        raise ValueError(f"{path} has no frames from {shown(start)} s on")
    sound = _cut(read_sound(path), start, duration) if sounds else None
    return Video(torch.stack(frames), rate, sound, 8 if bits <= DEEP else 10)


def read_sound(path: Path) -> Sound:
    """The first sound of a file; ValueError without one."""
    av = pyav()
    with opened(path) as file:
        stream = first_stream(file, "audio", path)
        to_float = av.AudioResampler(format="fltp")
        parts = [each.to_ndarray() for frame in file.decode(stream) for each in to_float.resample(frame)]
        parts += [each.to_ndarray() for each in to_float.resample(None)]
        rate = int(stream.rate)
    if not parts:
        raise ValueError(f"the sound of {path} is empty")
    return {"waveform": torch.from_numpy(np.concatenate(parts, axis=1))[None].float(), "sample_rate": rate}
