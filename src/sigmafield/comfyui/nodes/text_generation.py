"""The node that writes text with a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Dynamic, Input
from sigmafield.comfyui.values import Audio, Clip, Image
from sigmafield.comfyui.widgets import Prompt
from sigmafield.core.annotations import Range

SEED = 2**64 - 1
Trees = Literal["auto", "off", "2", "3", "4", "5", "tree2s1", "tree2s2", "tree3s1", "tree4s1m8"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Words are drawn at random."""

    temperature: Annotated[float, Range(0.01, 2), Input(step=1e-6)] = 0.7
    top_k: Annotated[int, Range(0, 1000)] = 64
    top_p: Annotated[float, Range(0, 1), Input(step=0.01)] = 0.95
    min_p: Annotated[float, Range(0, 1), Input(step=0.01)] = 0.05
    repetition_penalty: Annotated[float, Range(0, 5), Input(step=0.01)] = 1.05
    seed: Annotated[int, Range(0, SEED)] = 0
    presence_penalty: Annotated[float, Range(0, 5), Input(optional=True, step=0.01)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Likeliest:
    """The likeliest word is taken."""


@node("TextGenerate", "text", title="Text Generate", outputs=("generated_text", "thinking"), version=3)
def text_generate(
    clip: Clip,
    prompt: Prompt = "",
    max_length: Annotated[int, Range(1, 32768)] = 512,
    *,
    sampling_mode: Annotated[Drawn | Likeliest, Dynamic({"on": Drawn, "off": Likeliest})],
    image: Image | None = None,
    video: Image | None = None,
    audio: Audio | None = None,
    thinking: Annotated[bool, Input(optional=True)] = False,
    use_default_template: Annotated[bool, Input(optional=True)] = True,
    mtp: Annotated[Trees, Input(optional=True)] = "auto",
    system_prompt: Annotated[str | None, Input(force_input=True)] = None,
) -> tuple[str, str]:
    """Writes text with a text encoder that is a language model. No model that is read here has one.

    Workflows in which a switch leaves this node out run; where it is needed, it says that it cannot.

    Args:
        clip: The text encoder.
        prompt: What the text is about.
        max_length: Most tokens of the text.
        sampling_mode: Whether words are drawn at random, and how.
        image: An image that the prompt is about.
        video: Frames that the prompt is about.
        audio: A sound that the prompt is about.
        thinking: Whether the model may think first.
        use_default_template: Whether the prompt is put into the model's template.
        mtp: How several words are guessed at once.
        system_prompt: What the model is told first.
    """
    known = ", ".join(type(each).__name__ for each in clip.modules.values()) or "no module"
    raise ValueError(
        f"TextGenerate needs a text encoder with a language model's head, such as Qwen3's; this one has {known}. No "
        "family that is loaded here has one: write the prompt, or switch this node off"
    )
