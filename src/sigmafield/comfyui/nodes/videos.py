"""Nodes that make, load, cut and save videos."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from sigmafield.comfyui.context import Context, Folders, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import as_json, located, place, stays_below, texts_of
from sigmafield.comfyui.sockets import Choices, Dynamic, Input, Socket
from sigmafield.comfyui.values import Audio, ExtraValue, Image, PromptValue
from sigmafield.comfyui.values import Video as VideoSocket
from sigmafield.comfyui.video import Video, VideoFile
from sigmafield.comfyui.video_files import Codec, Container, encoded_video
from sigmafield.core.annotations import Range

LOSS = {"h264": 23.0, "av1": 30.0, "vp9": 32.0}
"""CRF of each codec where a workflow does not say it."""


def _videos(folders: Folders) -> list[str]:
    here = folders.input.iterdir() if folders.input.is_dir() else ()
    return sorted(each.name for each in here if (mimetypes.guess_type(each.name)[0] or "").startswith("video/"))


def _must_exist(file: str, context: Context) -> None:
    if not located(file, context.folders).is_file():
        raise ValueError(f"Invalid video file: {file}")


def _changed(file: str, context: Context) -> int:
    return located(file, context.folders).stat().st_mtime_ns


@node("CreateVideo", "video", title="Create Video", version=3)
def create_video(
    images: Image,
    fps: Annotated[float, Range(1, 120), Input(step=1.0)] = 30.0,
    audio: Audio | None = None,
    bit_depth: Annotated[Literal["auto", 8, 10], Input(optional=True)] = "auto",
    color_space: Annotated[Literal["sRGB"], Input(optional=True)] = "sRGB",
    codec: Annotated[Literal["none", "auto", "h264", "av1"], Input(optional=True)] = "none",
) -> VideoSocket:
    """A video of images and sound.

    Args:
        images: The frames.
        fps: Frames per second.
        audio: The sound.
        bit_depth: Bits per channel of a file; auto is 8.
        color_space: Its colours.
        codec: Frames are kept as they are until they are saved, whatever it is.
    """
    return Video(images, Fraction(fps).limit_denominator(1000), audio, 10 if bit_depth == 10 else 8)


@node("LoadVideo", "video", title="Load Video", version=3, validate=_must_exist, fingerprint=_changed)
def load_video(
    file: Annotated[str, Choices(_videos, files=True), Input(more=(("video_upload", True),))],
    context: Context = Context(),
) -> VideoSocket:
    """A video of a file in the input folder; its frames are read when they are needed.

    Args:
        file: The file.
        context: Where the folder is.
    """
    path = located(file, context.folders)
    VideoFile(path).get_dimensions()  # an error belongs to this node
    return VideoFile(path)


@node(
    "GetVideoComponents", "video", title="Get Video Components",
    outputs=("images", "audio", "fps", "bit_depth", "color_space"), version=3,
)  # fmt: skip
def get_video_components(
    video: VideoSocket,
) -> tuple[Image, Audio | None, float, Annotated[Any, Socket("COMBO")], Annotated[Any, Socket("COMBO")]]:
    """The frames, the sound and the rate of a video.

    Args:
        video: The video.
    """
    parts = video.get_components()
    return parts.images, parts.audio, float(parts.frame_rate), parts.bit_depth, "sRGB"


@node("Video Slice", "video", title="Video Slice", version=3)
def video_slice(
    video: VideoSocket,
    start_time: Annotated[float, Range(-1e5, 1e5), Input(step=0.001)] = 0.0,
    duration: Annotated[float, Range(0), Input(step=0.001)] = 0.0,
    strict_duration: bool = False,
) -> VideoSocket:
    """A part of a video: the frames that begin in start ≤ t < start + duration.

    Args:
        video: The video.
        start_time: Where the part begins, in seconds; negative numbers count from the end.
        duration: How long it is, in seconds; 0: to the end.
        strict_duration: Refuse a video that ends before.
    """
    total = video.get_duration()
    start = max(total + start_time, 0.0) if start_time < 0 else start_time
    if start >= total:
        raise ValueError(f"start_time {start_time:g} is at or after the end of the video, {total:g} s")
    if strict_duration and duration > total - start + 1e-6:
        raise ValueError(f"duration {duration:g} is more than the {total - start:g} s that are left")
    return video.part(start, min(duration or total, total - start))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The usual loss."""

    crf: ClassVar[float | None] = None


@dataclass(frozen=True, kw_only=True)
class LossOfH264:
    """A loss of one's own."""

    crf: Annotated[float, Range(0, 51), Input(step=1.0)] = 23.0


@dataclass(frozen=True, kw_only=True)
class LossOfAv1:
    """A loss of one's own."""

    crf: Annotated[float, Range(0, 63), Input(step=1.0)] = 30.0


@dataclass(frozen=True, kw_only=True)
class AutoCodec:
    """The usual codec of the format."""

    name: ClassVar[Codec | None] = None
    encoding: ClassVar[Kept] = Kept()


@dataclass(frozen=True, kw_only=True)
class H264:
    """The codec that every player shows."""

    name: ClassVar[Codec] = "h264"
    encoding: Annotated[Kept | LossOfH264, Dynamic({"auto": Kept, "re-encode": LossOfH264})] | None = None


@dataclass(frozen=True, kw_only=True)
class Av1:
    """The codec of the smallest files."""

    name: ClassVar[Codec] = "av1"
    encoding: Annotated[Kept | LossOfAv1, Dynamic({"auto": Kept, "re-encode": LossOfAv1})] | None = None


AnyCodec = Annotated[AutoCodec | H264 | Av1, Dynamic({"auto": AutoCodec, "h264": H264, "av1": Av1})]


@dataclass(frozen=True, kw_only=True)
class Mp4:
    """MP4, which is also what auto means."""

    container: ClassVar[Container] = "mp4"
    usual: ClassVar[Codec] = "h264"
    codec: AnyCodec | None = None


@dataclass(frozen=True, kw_only=True)
class Matroska(Mp4):
    """Matroska."""

    container: ClassVar[Container] = "mkv"


@dataclass(frozen=True, kw_only=True)
class WebM:
    """WebM."""

    container: ClassVar[Container] = "webm"
    usual: ClassVar[Codec] = "av1"
    codec: Annotated[AutoCodec | Av1, Dynamic({"auto": AutoCodec, "av1": Av1})] | None = None


@node("SaveVideo", "video", title="Save Video", outputs=("video",), version=3, shows=True, validate=stays_below)
def save_video(
    video: VideoSocket,
    filename_prefix: str = "video/ComfyUI",
    *,
    format: Annotated[Mp4 | Matroska | WebM, Dynamic({"auto": Mp4, "mp4": Mp4, "mkv": Matroska, "webm": WebM})],
    codec: Annotated[
        AutoCodec | H264 | Av1,
        Dynamic({"auto": AutoCodec, "h264": H264, "av1": Av1}),
        Input(more=(("hidden", True),)),
    ]
    | None = None,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[VideoSocket]:
    """Saves a video into the output folder; its frames are encoded again, those of a file as well.

    Args:
        video: The video.
        filename_prefix: Path of the file below the folder, up to the counter.
        format: The format of the file, and its codec.
        codec: The codec, in workflows of earlier versions.
        prompt: The prompt, which is written into the file.
        extra_pnginfo: What else is written into it.
        context: Where the folder is.
    """
    chosen = format.codec or codec or AutoCodec()
    name = chosen.name or format.usual
    encoding = chosen.encoding or Kept()
    loss = LOSS[name] if encoding.crf is None else encoding.crf
    texts = {key: as_json(value) for key, value in texts_of(prompt, extra_pnginfo).items()}
    return _saved(video.get_components(), video, filename_prefix, format.container, name, loss, texts, context)


@node(
    "SaveWEBM",
    "video",
    title="Save WEBM",
    outputs=("images",),
    version=3,
    shows=True,
    experimental=True,
    validate=stays_below,
)
def save_webm(
    images: Image,
    filename_prefix: str = "ComfyUI",
    *,
    codec: Literal["vp9", "av1"],
    fps: Annotated[float, Range(0.01, 1000), Input(step=0.01)] = 24.0,
    crf: Annotated[float, Range(0, 63), Input(step=1.0)] = 32.0,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images as a video in the output folder.

    Args:
        images: The frames.
        filename_prefix: Path of the file below the folder, up to the counter.
        codec: How frames are stored.
        fps: Frames per second.
        crf: Loss: 0 is the best.
        prompt: The prompt, which is written into the file.
        extra_pnginfo: What else is written into it.
        context: Where the folder is.
    """
    texts = {key: as_json(value) for key, value in texts_of(prompt, extra_pnginfo).items()}
    video = Video(images, Fraction(round(fps * 1000), 1000), None, 10 if codec == "av1" else 8)
    return _saved(video, images, filename_prefix, "webm", codec, crf, texts, context)


def _saved(
    video: Video,
    value: Any,
    prefix: str,
    container: Container,
    codec: Codec,
    crf: float,
    texts: dict[str, str],
    context: Context,
) -> Shown[Any]:
    """Write a video as a file and describe it as an interface shows it."""
    width, height = video.get_dimensions()
    where = place(prefix, context.folders.output, width, height)
    file = where.save(0, f"_.{container}", encoded_video(video, container, codec, crf, texts))
    return Shown(value, {"images": [file], "animated": [True]})
