"""Nodes that load, cut and save sound."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from sigmafield.comfyui.context import Context, Folders, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import as_json, located, place, stays_below, texts_of
from sigmafield.comfyui.sockets import Choices, Dynamic, Input, Socket
from sigmafield.comfyui.values import Audio, ExtraValue, PromptValue
from sigmafield.comfyui.video import read_sound
from sigmafield.comfyui.video_files import encoded_sound, trimmed
from sigmafield.core.annotations import Range
from sigmafield.recipes.image_io import digest


def _sounds(folders: Folders) -> list[str]:
    here = folders.input.iterdir() if folders.input.is_dir() else ()
    kinds = ("audio/", "video/")
    return sorted(each.name for each in here if (mimetypes.guess_type(each.name)[0] or "").startswith(kinds))


def _must_exist(audio: str, context: Context) -> None:
    if not located(audio, context.folders).is_file():
        raise ValueError(f"Invalid audio file: {audio}")


def _digest(audio: str, context: Context) -> str:
    return digest(located(audio, context.folders).read_bytes())


@node("LoadAudio", "audio", title="Load Audio", version=3, validate=_must_exist, fingerprint=_digest)
def load_audio(
    audio: Annotated[str, Choices(_sounds, files=True), Input(more=(("audio_upload", True),))],
    audioUI: Annotated[Any, Socket("AUDIO_UI")] = None,
    upload: Annotated[Any, Socket("AUDIOUPLOAD")] = None,
    context: Context = Context(),
) -> Audio:
    """Loads the sound of a file in the input folder.

    Args:
        audio: The file, of sound or of a video.
        audioUI: Where the interface plays it.
        upload: The interface's button.
        context: Where the folder is.
    """
    return read_sound(located(audio, context.folders))


@node("RecordAudio", "audio", title="Record Audio", version=3, validate=_must_exist, fingerprint=_digest)
def record_audio(audio: Annotated[str, Socket("AUDIO_RECORD")], context: Context = Context()) -> Audio:
    """Loads a sound that was recorded in the interface.

    Args:
        audio: Its file in the input folder.
        context: Where the folder is.
    """
    return read_sound(located(audio, context.folders))


@node("TrimAudioDuration", "audio", title="Trim Audio Duration", version=3)
def trim_audio_duration(
    audio: Audio,
    start_index: Annotated[float, Range(-(2.0**64), 2.0**64), Input(step=0.01)] = 0.0,
    duration: Annotated[float, Range(0, 2.0**64), Input(step=0.01)] = 60.0,
) -> Audio:
    """A part of a sound.

    Args:
        audio: The sound.
        start_index: Where the part begins, in seconds; negative numbers count from the end.
        duration: How long it is at most, in seconds.
    """
    return trimmed(audio, start_index, duration)


@dataclass(frozen=True, kw_only=True)
class Flac:
    """FLAC, which loses nothing."""

    ending: ClassVar[Literal["flac"]] = "flac"
    quality: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Mp3:
    """MP3."""

    ending: ClassVar[Literal["mp3"]] = "mp3"
    quality: Literal["V0", "128k", "320k"] = "V0"


@dataclass(frozen=True, kw_only=True)
class Opus:
    """Opus."""

    ending: ClassVar[Literal["opus"]] = "opus"
    quality: Literal["64k", "96k", "128k", "192k", "320k"] = "128k"


@node(
    "SaveAudioAdvanced",
    "audio",
    title="Save Audio (Advanced)",
    outputs=("audio",),
    version=3,
    shows=True,
    validate=stays_below,
)
def save_audio_advanced(
    audio: Audio,
    filename_prefix: str = "audio/ComfyUI",
    *,
    format: Annotated[Flac | Mp3 | Opus, Dynamic({"flac": Flac, "mp3": Mp3, "opus": Opus})],
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Audio]:
    """Saves sound into the output folder, a file for each of a batch.

    Args:
        audio: The sound.
        filename_prefix: Path of the files below the folder, up to the counter.
        format: The format of the files, and its quality.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    where = place(filename_prefix, context.folders.output)
    texts = {key: as_json(value) for key, value in texts_of(prompt, extra_pnginfo).items()}
    files = (encoded_sound(audio, k, format.ending, format.quality, texts) for k in range(len(audio["waveform"])))
    return Shown(audio, {"audio": [where.save(k, f"_.{format.ending}", data) for k, data in enumerate(files)]})
