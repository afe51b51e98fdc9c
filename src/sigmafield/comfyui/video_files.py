"""Videos and sound as files, through PyAV, with the texts in which ComfyUI finds a workflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from sigmafield.comfyui.video import Sound, Video, opened, pyav
from sigmafield.core.registry import shown

Container = Literal["mp4", "mkv", "webm"]
Codec = Literal["h264", "av1", "vp9"]

ENCODERS: Mapping[str, str] = {"h264": "libx264", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""FFmpeg's encoder of each codec."""
MP4 = {"movflags": "use_metadata_tags+faststart"}
FLAGS: Mapping[str, Mapping[str, str]] = {".mp4": MP4, ".mov": MP4}
"""FFmpeg's options by ending: MP4 files keep texts of any name, and can be shown while they are loaded."""
OPUS_RATE = 48000
"""Samples per second that Opus, which WebM has, takes."""


def encoded_video(video: Video, container: Container, codec: Codec, crf: float, texts: Mapping[str, str]) -> bytes:
    """The bytes of a video file.

    An odd last row or column is left out: the colours of 2×2 pixels are one. Colours are those of BT.709.

    Args:
        video: Frames, rate and sound.
        container: The format, which is the file's ending.
        codec: How frames are stored.
        crf: Loss: 0 is the best.
        texts: What the file carries, by name.

    Raises:
        ValueError: The container cannot hold the codec.
        ImportError: PyAV is not installed.
    """
    if container == "webm" and codec == "h264":
        raise ValueError("WebM holds av1 or vp9, and not h264: choose mp4, mkv or another codec")
    av = pyav()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"video.{container}"
        with av.open(str(path), "w", container_options=FLAGS.get(path.suffix, {})) as file:
            file.metadata.update(texts)
            stream = _video_stream(file, video, codec, crf)
            sound = None if video.audio is None else _sound_stream(file, video.audio, container)
            for packet in _frames(av, video, stream):
                file.mux(packet)
            if sound is not None and video.audio is not None:
                _write_sound(av, file, sound, video.audio, 0)
        return path.read_bytes()


def _video_stream(file: Any, video: Video, codec: Codec, crf: float) -> Any:
    stream = file.add_stream(ENCODERS[codec], rate=video.frame_rate.limit_denominator(65535))
    width, height = video.get_dimensions()
    if width < 2 or height < 2:
        raise ValueError(f"a video is at least 2×2 pixels; got {width}×{height}")
    stream.width, stream.height = width // 2 * 2, height // 2 * 2
    deep = video.bit_depth > 8 and codec != "vp9"  # of which 10 bits are another profile
    stream.pix_fmt = "yuv420p10le" if deep else "yuv420p"
    stream.bit_rate = 0
    stream.options = {"crf": f"{crf:g}"}
    stream.codec_context.colorspace = 1
    return stream


def _frames(av: Any, video: Video, stream: Any) -> Iterator[Any]:
    """The packets of all frames."""
    form, kind, most = ("rgb48le", np.uint16, 65535) if "10" in stream.pix_fmt else ("rgb24", np.uint8, 255)
    for image in video.images:
        rgb = image[: stream.height, : stream.width, :3].detach().cpu().float().clamp(0, 1).numpy()
        pixels = np.broadcast_to((rgb * most).round().astype(kind), (stream.height, stream.width, 3))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=form)
        yield from stream.encode(frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", threads=1))
    yield from stream.encode()


def _sound_stream(file: Any, sound: Sound, container: str) -> Any:
    rate = OPUS_RATE if container == "webm" else sound["sample_rate"]
    return file.add_stream("libopus" if container == "webm" else "aac", rate=rate, layout=_layout(sound))


def _layout(sound: Sound) -> str:
    channels = sound["waveform"].shape[1]
    if channels not in (1, 2):
        raise ValueError(f"sound has one channel or two; got {channels}")
    return ("mono", "stereo")[channels - 1]


def _write_sound(av: Any, file: Any, stream: Any, sound: Sound, k: int) -> None:
    """Write the k-th sound of a batch."""
    values = sound["waveform"][k].detach().cpu().float().clamp(-1, 1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values.numpy()), format="fltp", layout=_layout(sound))
    frame.sample_rate = sound["sample_rate"]
    frame.time_base, frame.pts = Fraction(1, sound["sample_rate"]), 0
    to_stream = av.AudioResampler(
        format=stream.codec_context.format, layout=_layout(sound), rate=stream.rate,
        frame_size=stream.codec_context.frame_size or None,
    )  # fmt: skip
    for part in [*to_stream.resample(frame), *to_stream.resample(None)]:
        file.mux(stream.encode(part))
    file.mux(stream.encode())


def encoded_sound(
    sound: Sound, k: int, format: Literal["flac", "mp3", "opus"], quality: str, texts: Mapping[str, str]
) -> bytes:
    """The bytes of a file with one sound of a batch.

    Args:
        sound: The batch.
        k: Which one.
        format: The format, which is the file's ending.
        quality: "V0" of mp3, or a bit rate such as "128k"; flac loses nothing and ignores it.
        texts: What the file carries, by name.

    Raises:
        ValueError: The sound has more than two channels.
        ImportError: PyAV is not installed.
    """
    av = pyav()
    coder = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus"}[format]
    rate = OPUS_RATE if format == "opus" else sound["sample_rate"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"sound.{format}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream(coder, rate=rate, layout=_layout(sound))
            if quality == "V0":
                stream.codec_context.qscale = True
                stream.codec_context.global_quality = 0
            elif quality:
                stream.bit_rate = int(quality.removesuffix("k")) * 1000
            table = stream.metadata if format == "opus" else file.metadata
            table.update(texts)
            _write_sound(av, file, stream, sound, k)
        return path.read_bytes()


def trimmed(sound: Sound, start: float, duration: float) -> Sound:
    """The part of a sound from `start` seconds on, counted from the end if it is negative.

    Raises:
        ValueError: Nothing is left.
    """
    rate, n = sound["sample_rate"], sound["waveform"].shape[-1]
    first = min(max(round(start * rate) + (n if start < 0 else 0), 0), n)
    end = min(first + round(min(duration, n / rate) * rate), n)
    if first >= end:
        raise ValueError(f"start_index {shown(start)} and duration {shown(duration)} leave nothing of {n / rate:g} s")
    return {"waveform": sound["waveform"][..., first:end], "sample_rate": rate}


def copied(path: Path, texts: Mapping[str, str]) -> bytes:
    """The bytes of a copy of a video or sound, frames and samples as they are, that carries texts next to its own.

    Args:
        path: The file.
        texts: What the copy carries, by name.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read.
        ImportError: PyAV is not installed.
    """
    av = pyav()
    with opened(path) as source, TemporaryDirectory() as folder:
        target = Path(folder) / f"copy{path.suffix}"
        with av.open(str(target), "w", container_options=FLAGS.get(path.suffix.lower(), {})) as file:
            file.metadata.update({**source.metadata, **texts})
            kept = [each for each in source.streams if each.type in ("video", "audio")]
            streams = {each.index: file.add_stream_from_template(each) for each in kept}
            for packet in source.demux(kept):
                if packet.dts is not None:  # the last one of a stream is empty
                    packet.stream = streams[packet.stream.index]
                    file.mux(packet)
        return target.read_bytes()
