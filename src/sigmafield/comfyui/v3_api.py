"""What files of ComfyUI's third form import: `from comfy_api.latest import ComfyExtension, io, ui`.

Inputs and outputs only describe themselves here; `from_v3` makes definitions of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

from sigmafield.comfyui.nodes.image_files import preview_image

MODULES = ("comfy_api.latest", "comfy_api.v0_0_1", "comfy_api.v0_0_2")
"""The names under which it is imported."""

NAMES = {
    "display_mode": "display", "dynamic_prompts": "dynamicPrompts", "force_input": "forceInput", "raw_link": "rawLink",
}  # fmt: skip
"""Arguments whose options have other names."""

TYPES = {
    "Int": "INT", "Float": "FLOAT", "Boolean": "BOOLEAN", "String": "STRING", "AnyType": "*", "Image": "IMAGE",
    "Mask": "MASK", "Latent": "LATENT", "Conditioning": "CONDITIONING", "Sampler": "SAMPLER", "Sigmas": "SIGMAS",
    "Noise": "NOISE", "Guider": "GUIDER", "Clip": "CLIP", "ControlNet": "CONTROL_NET", "Vae": "VAE", "Model": "MODEL",
    "ClipVision": "CLIP_VISION", "ClipVisionOutput": "CLIP_VISION_OUTPUT", "StyleModel": "STYLE_MODEL",
    "Gligen": "GLIGEN", "UpscaleModel": "UPSCALE_MODEL", "Audio": "AUDIO", "Video": "VIDEO", "Hooks": "HOOKS",
    "HookKeyframes": "HOOK_KEYFRAMES", "LatentOperation": "LATENT_OPERATION", "LoraModel": "LORA_MODEL",
}  # fmt: skip
"""ComfyUI's types by the names that they have in `io`."""


@dataclass(frozen=True)
class V3Input:
    """An input of a schema."""

    id: str
    type: str
    options: Mapping[str, Any]
    optional: bool = False

    def spec(self) -> list[Any]:
        """The input in the form of `/object_info`."""
        return [self.type, dict(self.options)]


@dataclass(frozen=True)
class V3Output:
    """An output of a schema."""

    type: str
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False
    template: str | None = None


class Type:
    """A type, `io.Int`: `io.Int.Input("steps", default=20)` and `io.Int.Output()`."""

    def __init__(self, name: str, fixed: Mapping[str, Any] | None = None):
        self.name = name
        self.fixed = dict(fixed or {})
        self.Type = Any

    def Input(
        self, id: str, options: Any = None, *, optional: bool = False, extra_dict: Any = None, **given: Any
    ) -> V3Input:
        """An input of this type."""
        found = self.fixed | {NAMES.get(key, key): _plain(value) for key, value in given.items() if value is not None}
        if options is not None:
            found["options"] = [each.value if isinstance(each, Enum) else each for each in options]
        return V3Input(id, self.name, found | dict(extra_dict or {}), optional)

    def Output(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> V3Output:
        """An output of this type."""
        return V3Output(self.name, id, display_name, tooltip, is_output_list)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


class MultiType:
    """One of several types."""

    @staticmethod
    def Input(id: str | V3Input, types: Sequence[Any], **given: Any) -> V3Input:
        """An input that takes values of several types, with the widget of an input if one is given."""
        names = [each.name if isinstance(each, Type) else str(each) for each in types]
        if not isinstance(id, V3Input):
            return Type(",".join(names)).Input(id, **given)
        return V3Input(id.id, ",".join([id.type, *names]), {**id.options, "widgetType": id.type}, id.optional)


@dataclass(frozen=True)
class Template:
    """The types that inputs and outputs share."""

    template_id: str
    allowed_types: Any = None

    def allowed(self) -> str:
        """The types, with commas."""
        if self.allowed_types is None:
            return "*"
        each = self.allowed_types if isinstance(self.allowed_types, (list, tuple)) else [self.allowed_types]
        return ",".join(one.name if isinstance(one, Type) else str(one) for one in each)


class MatchType:
    """A value whose type is that of the others with its template."""

    Template = Template

    @staticmethod
    def Input(id: str, template: Template, **given: Any) -> V3Input:
        """An input of the template's type."""
        about = {"template_id": template.template_id, "allowed_types": template.allowed()}
        return Type("COMFY_MATCHTYPE_V3", {"template": about}).Input(id, **given)

    @staticmethod
    def Output(
        template: Template,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> V3Output:
        """An output of the template's type."""
        return V3Output("COMFY_MATCHTYPE_V3", id, display_name, tooltip, is_output_list, template.template_id)


def _group(one: V3Input) -> dict[str, Any]:
    return {"optional" if one.optional else "required": {one.id: one.spec()}}


class Autogrow:
    """A group of inputs that grows."""

    @staticmethod
    def TemplatePrefix(input: V3Input, prefix: str, min: int = 1, max: int = 10) -> dict[str, Any]:
        """Names prefix0, prefix1, …."""
        return {"input": _group(input), "prefix": prefix, "min": min, "max": max}

    @staticmethod
    def TemplateNames(input: V3Input, names: Sequence[str], min: int = 1) -> dict[str, Any]:
        """The names themselves."""
        return {"input": _group(input), "names": list(names), "min": min}

    @staticmethod
    def Input(id: str, template: Mapping[str, Any], **given: Any) -> V3Input:
        """The group."""
        return Type("COMFY_AUTOGROW_V3", {"template": dict(template)}).Input(id, **given)


class DynamicCombo:
    """A choice with inputs of its own."""

    @staticmethod
    def Option(key: str, inputs: Sequence[V3Input]) -> dict[str, Any]:
        """A choice."""
        return {"key": key, "inputs": groups(inputs)}

    @staticmethod
    def Input(id: str, options: Sequence[Mapping[str, Any]], **given: Any) -> V3Input:
        """The choice."""
        return Type("COMFY_DYNAMICCOMBO_V3").Input(id, options, **given)


def groups(inputs: Sequence[V3Input]) -> dict[str, dict[str, Any]]:
    """Inputs in the form of `/object_info`: {"required": {name: spec}, "optional": {…}}."""
    found: dict[str, dict[str, Any]] = {"required": {}}
    for each in inputs:
        found.setdefault("optional" if each.optional else "required", {})[each.id] = each.spec()
    return found


class Hidden(str, Enum):
    """What a schema can ask for."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


@dataclass
class Schema:
    """What a class says about itself."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: Sequence[V3Input] = ()
    outputs: Sequence[V3Output] = ()
    hidden: Sequence[Hidden] = ()
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    search_aliases: Sequence[str] = field(default_factory=list[str])


class NodeOutput:
    """What a class returns."""

    def __init__(self, *values: Any, ui: Any = None, expand: Any = None, block_execution: str | None = None):
        self.values = values
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution


class ComfyNode:
    """The base of classes."""

    hidden: Any = SimpleNamespace()


class ComfyExtension:
    """The base of packs."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The classes of a pack."""
        return []


class PreviewText:
    """A text to show."""

    def __init__(self, value: str):
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        """What an interface shows."""
        return {"text": (self.value,)}


class PreviewImage:
    """Images to show."""

    def __init__(self, image: Any, cls: Any = None, **ignored: Any):
        self.image = image
        self.cls = cls

    def as_dict(self) -> dict[str, Any]:
        """What an interface shows; the images are written into the folder of temporary files."""
        return dict(preview_image(self.image, context=self.cls.hidden.context).ui)


def install() -> None:
    """Make the modules known to `import`, unless ComfyUI's own are there."""
    if "comfy_api" in sys.modules:
        return
    kinds: dict[str, Any] = {name: Type(kind) for name, kind in TYPES.items()}
    kinds |= {"Combo": Type("COMBO", {"multiselect": False})}
    kinds |= {"MultiCombo": Type("COMBO", {"multiselect": True, "multi_select": True}), "Custom": Type}
    kinds |= {
        each.__name__: each
        for each in (MultiType, MatchType, Autogrow, DynamicCombo, Hidden, Schema, NodeOutput, ComfyNode)
    }
    parts = {
        "io": SimpleNamespace(**kinds),
        "ui": SimpleNamespace(PreviewText=PreviewText, PreviewImage=PreviewImage),
        "ComfyExtension": ComfyExtension,
    }
    package = sys.modules["comfy_api"] = ModuleType("comfy_api")
    for name in MODULES:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(parts)
        setattr(package, name.rpartition(".")[2], module)
