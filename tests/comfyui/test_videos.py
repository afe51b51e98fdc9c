"""Videos and sound: what is saved is read again, with its workflow; parts are those of the rule."""

import json
from fractions import Fraction

import pytest
import torch

from command_line import run
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes.sound import trim_audio_duration
from sigmafield.comfyui.nodes.videos import create_video, get_video_components, video_slice
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.video import Video, VideoFile, read_sound, read_video, texts_in
from sigmafield.comfyui.video_files import encoded_sound, encoded_video
from sigmafield.comfyui.workflow.files import read_workflow

pytest.importorskip("av")

RATE, FRAMES = 8000, 6
COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.5, 0.8], [1, 1, 1], [0, 0, 0]])
IMAGES = COLOURS[:, None, None].expand(FRAMES, 16, 18, 3)
RAMP = torch.stack([torch.tensor([k, FRAMES - k, FRAMES / 2]) / FRAMES for k in range(FRAMES)])
GRADUAL = RAMP[:, None, None].expand(FRAMES, 16, 18, 3)
"""Of 10 bits, FFmpeg's encoder of AV1 loses the colours of frames between two cuts, and a little in between."""
TONE = {"waveform": 0.5 * torch.sin(torch.arange(RATE * 3 // 4) * 0.3)[None, None].repeat(2, 2, 1), "sample_rate": RATE}
SAVED = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 32, "batch_size": 4, "color": 0x4080FF}},
    "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
    "3": {"class_type": "SaveVideo", "inputs": {
        "video": ["2", 0], "filename_prefix": "a/%width%", "format": "mp4", "format.codec": "h264",
        "format.codec.encoding": "re-encode", "format.codec.encoding.crf": 3.0}},
}  # fmt: skip


def saving(**inputs):
    return {**SAVED, "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": "x", **inputs}}}


@pytest.fixture
def context(tmp_path):
    return Context(Folders(input=tmp_path, output=tmp_path), extra={"workflow": {"nodes": [], "links": [], "a": "é"}})


@pytest.mark.parametrize(
    "container, codec, bits",
    [("mp4", "h264", 8), ("mkv", "h264", 10), ("webm", "vp9", 8), ("webm", "av1", 10)],
)
def test_frames_rate_sound_and_texts_come_back(container, codec, bits, tmp_path):
    path = tmp_path / f"x.{container}"
    images = GRADUAL if codec == "av1" else IMAGES
    made = Video(images, Fraction(8), {**TONE, "waveform": TONE["waveform"][:1]}, bits)
    path.write_bytes(encoded_video(made, container, codec, 2.0, {"prompt": '{"1": "\\u00e9"}'}))
    found = read_video(path)
    assert (found.images - images).abs().max() < (0.15 if codec == "av1" else 0.03)
    assert (found.images - images).abs().mean() < 0.03
    assert (found.frame_rate, found.bit_depth, texts_in(path)["prompt"]) == (8, bits, '{"1": "\\u00e9"}')
    assert found.audio is not None
    seconds = found.audio["waveform"].shape[-1] / found.audio["sample_rate"]
    assert found.audio["waveform"].shape[:2] == (1, 2) and abs(seconds - 0.75) < 0.2
    assert abs(float(found.audio["waveform"].std()) - float(TONE["waveform"].std())) < 0.05


def test_a_saved_video_carries_the_workflow_that_runs_again(context, tmp_path):
    made = run_workflow(SAVED, context)
    [file] = made.files
    assert file == tmp_path / "a" / "16_00001_.mp4" and made.shown["3"]["animated"] == [True]
    found = read_workflow(file)
    assert found.page == context.extra["workflow"] and found.prompt["3"] == SAVED["3"]
    assert (read_video(file).images - torch.tensor([0x40, 0x80, 0xFF]) / 255).abs().max() < 0.02
    again = run("run", file, "-o", tmp_path / "again")
    assert again.stdout.split() == [str(tmp_path / "again" / "a" / "16_00001_.mp4")], again.output


def test_a_copy_carries_another_workflow_and_the_same_frames(context, tmp_path):
    [file] = run_workflow(SAVED, Context(context.folders)).files
    copy = tmp_path / "copy.mp4"
    assert run("workflow", file, "-o", copy).exit_code == 0
    assert read_workflow(copy).page["version"] == 0.4 and read_workflow(copy).prompt == read_workflow(file).prompt
    assert read_video(copy).images.equal(read_video(file).images)
    assert json.loads(run("workflow", copy, "--form", "api").stdout) == read_workflow(file).prompt
    wrong = run("workflow", file, "-o", tmp_path / "copy.webm")
    assert wrong.exit_code == 2 and "is in its format, .mp4" in wrong.stderr


@pytest.mark.parametrize(
    "inputs, ending",
    [
        ({"format": "auto", "codec": "auto"}, "mp4"),  # of earlier versions
        ({"format": "mkv", "format.codec": "auto"}, "mkv"),
        ({"format": "webm", "format.codec": "av1"}, "webm"),
    ],
)
def test_formats_and_codecs(inputs, ending, context, tmp_path):
    assert run_workflow(saving(**inputs), context).files == (tmp_path / f"x_00001_.{ending}",)
    assert read_workflow(tmp_path / f"x_00001_.{ending}").prompt["2"] == SAVED["2"]


def test_webm_of_images(context, tmp_path):
    prompt = {**SAVED, "3": {"class_type": "SaveWEBM", "inputs": {
        "images": ["1", 0], "filename_prefix": "x", "codec": "vp9", "fps": 12.5, "crf": 10.0}}}  # fmt: skip
    [file] = run_workflow(prompt, context).files
    assert file == tmp_path / "x_00001_.webm" and read_video(file).frame_rate == Fraction(25, 2)
    assert read_workflow(file).prompt["3"] == prompt["3"]


@pytest.mark.parametrize(
    "start, duration, frames",
    [
        (0, 0, range(6)), (0.25, 0.25, [2, 3]), (0.2, 0.25, [2, 3]), (-0.25, 0, [4, 5]), (-9, 0.125, [0]),
        (0.5, 9, [4, 5]),
    ],
)  # fmt: skip
def test_a_part_has_the_frames_that_begin_in_it(start, duration, frames, tmp_path):
    path = tmp_path / "x.mkv"
    made = create_video(IMAGES, 8.0, TONE)
    path.write_bytes(encoded_video(Video(IMAGES, Fraction(8)), "mkv", "h264", 2.0, {}))
    for video in (made, VideoFile(path)):
        images, audio, fps, depth, space = get_video_components(video_slice(video, start, duration))
        assert images.shape[0] == len(list(frames)) and (images - IMAGES[list(frames)]).abs().max() < 0.03
        assert (fps, depth, space) == (8.0, 8, "sRGB")
        if video is made:
            assert abs(audio["waveform"].shape[-1] / RATE - len(images) / 8) < 0.07


def test_parts_that_are_not_there_are_refused():
    video = create_video(IMAGES, 8.0)
    with pytest.raises(ValueError, match="at or after the end of the video, 0.75 s"):
        video_slice(video, 0.75)
    with pytest.raises(ValueError, match="duration 1 is more than the 0.25 s"):
        video_slice(video, 0.5, 1.0, True)
    with pytest.raises(ValueError, match="WebM holds av1 or vp9"):
        encoded_video(video, "webm", "h264", 2.0, {})


def test_files_are_loaded(context, tmp_path):
    (tmp_path / "x.mp4").write_bytes(encoded_video(Video(IMAGES, Fraction(8), TONE), "mp4", "h264", 2.0, {}))
    prompt = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "x.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "LoadAudio", "inputs": {"audio": "x.mp4"}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "5": {"class_type": "SaveAudioAdvanced", "inputs": {
            "audio": ["3", 0], "filename_prefix": "s", "format": "mp3", "format.quality": "V0"}},
    }  # fmt: skip
    made = run_workflow(prompt, Context(Folders(input=tmp_path, output=tmp_path, temp=tmp_path / "temp")))
    assert made.values["2"][0][0].shape == (FRAMES, 16, 18, 3)
    assert made.values["2"][1][0]["waveform"].equal(made.values["3"][0][0]["waveform"])
    assert made.shown["5"]["audio"] == [{"filename": "s_00001_.mp3", "subfolder": "", "type": "output"}]
    assert read_workflow(tmp_path / "s_00001_.mp3").prompt == prompt
    (tmp_path / "bad.mp4").write_text("x")
    with pytest.raises(ValueError, match="cannot read .*bad.mp4 as a video or sound"):
        read_video(tmp_path / "bad.mp4")
    with pytest.raises(ValueError, match="has no video"):
        read_video(tmp_path / "s_00001_.mp3")


@pytest.mark.parametrize("form, quality, error", [("flac", "", 1e-3), ("mp3", "320k", 0.1), ("opus", "128k", 0.3)])
def test_sound_comes_back_with_its_texts(form, quality, error, tmp_path):
    path = tmp_path / f"x.{form}"
    path.write_bytes(encoded_sound(TONE, 1, form, quality, {"prompt": "{}", "workflow": '{"a": 1}'}))
    found = read_sound(path)
    assert {"prompt": "{}", "workflow": '{"a": 1}'}.items() <= texts_in(path).items()
    assert abs(float(found["waveform"].std() / TONE["waveform"].std()) - 1) < error
    if form == "flac":
        assert (found["waveform"] - TONE["waveform"][1:]).abs().max() < error


def test_a_trimmed_sound_is_the_part_that_is_asked_for():
    n = TONE["waveform"].shape[-1]
    assert trim_audio_duration(TONE, 0.25, 0.25)["waveform"].equal(TONE["waveform"][..., 2000:4000])
    assert trim_audio_duration(TONE, -0.25, 60.0)["waveform"].equal(TONE["waveform"][..., n - 2000 :])
    with pytest.raises(ValueError, match="leave nothing"):
        trim_audio_duration(TONE, 1.0, 60.0)
