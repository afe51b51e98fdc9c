"""Opens a model in one file of the layout it was published in, as a directory would give its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from sigmafield.models.directory import Directory, open_directory, read_json
from sigmafield.models.single_file.convert import converted
from sigmafield.models.single_file.ema import ema_names
from sigmafield.models.single_file.layouts import APART, OPTIONAL, Layout, network_part, recognise
from sigmafield.models.single_file.shapes import derived
from sigmafield.models.single_file.tokenizers import unpack, unpack_own
from sigmafield.models.weights.files import Weights, open_weights
from sigmafield.models.weights.packed import Value, unpacked

OWN_TOKENIZERS = {
    "wan": "tokenizer", "wan_fun": "tokenizer", "wan_vace": "tokenizer", "flux2_dev": "tokenizer",
    "hidream": "tokenizer_4",
}  # fmt: skip
"""Tokenizers that come with the file of a text encoder, by family; others ship with the package."""

V_NORM = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""Weights of Stable Diffusion 2 that are spread wider than `V_SPREAD` in networks that predict v."""
V_SPREAD = 0.09


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint with the interface of a `Directory`; configs are shipped ones with values from the weights' shapes.

    Args:
        path: The file.
        stored: Its weights.
        layout: Its family and parts.
        shipped: Directory of the family's shipped configs.
        configs: Entries of each part's config that differ from the shipped ones.
        elsewhere: Directory with the parts that the file lacks.
        scratch: Directory that tokenizers are unpacked into.
        paths: The files of parts that are not in `path`.
    """

    path: Path
    stored: Weights
    layout: Layout
    shipped: Directory
    configs: Mapping[str, Mapping[str, Any]]
    elsewhere: Directory | None
    scratch: Path
    paths: Mapping[str, Path] = field(default_factory=dict)

    @property
    def index(self) -> dict[str, Any]:
        """As a directory's."""
        return self.shipped.index

    def has(self, part: str) -> bool:
        """Whether the weights of a part are in the file."""
        return part in self.layout.prefixes

    def owner(self, component: str) -> Directory | None:
        """The directory that a component's config is from, a tokenizer's with its text encoder; None: not found."""
        part = component.replace("tokenizer", "text_encoder")
        if part not in self.layout.parts or self.has(part):
            return self.shipped
        return self.elsewhere if self.elsewhere and self.elsewhere.class_of(part) else None

    def class_of(self, component: str) -> str | None:
        """As a directory's."""
        owner = self.owner(component)
        return owner and owner.class_of(component)

    def folder(self, component: str, *supported: str) -> Path:
        """As a directory's: with configs only for the parts in the file, with all files for tokenizers."""
        folder = (self.owner(component) or self.shipped).folder(component, *supported)
        if component.startswith("tokenizer") and self.owner(component) is self.shipped:
            if OWN_TOKENIZERS.get(self.layout.family) == component:
                path = self.paths.get(component.replace("tokenizer", "text_encoder"), self.path)
                return unpack_own(path, self.scratch / component, folder / "tokenizer_config.json")
            return unpack(str(self.class_of(component)), self.scratch / component, folder / "tokenizer_config.json")
        return folder

    def network(self, *supported: str) -> str:
        """As a directory's."""
        self.folder(network_part(self.layout.family), *supported)
        return str(self.class_of(network_part(self.layout.family)))

    def config(self, component: str, *supported: str) -> dict[str, Any]:
        """As a directory's."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config = read_json(self.folder(component, *supported) / name)
        return {**config, **self.configs.get(component, {})}

    def scheduler(self) -> dict[str, Any]:
        """As a directory's."""
        return self.config("scheduler", str(self.shipped.class_of("scheduler")))

    def weights(self, part: str, kind: str) -> dict[str, Value]:
        """Reads the weights of a part that is in the file, with the dtypes that they have there.

        Args:
            part: The part.
            kind: Class whose names the weights get.

        Raises:
            ValueError: If a weight is missing, or the class does not have it.
        """
        prefix = self.layout.prefixes[part]
        names = [name for name in self.stored.header if name.startswith(prefix)]
        values = {name.removeprefix(prefix): value for name, value in self.stored.read(names)}
        try:
            return converted(kind, values, self.config(part, kind), self.layout.family)
        except KeyError as error:
            raise ValueError(f"{self.path}: {part}: weight {error.args[0]} is missing") from error
        except ValueError as error:
            raise ValueError(f"{self.path}: {part}: {error}") from error


def open_single_file(path: Path, parts: Path | None, scratch: Path, alone: bool = False) -> SingleFile:
    """Opens a checkpoint.

    Args:
        path: The file.
        parts: Directory in diffusers' layout with the parts that the file lacks.
        scratch: Directory that tokenizers are unpacked into.
        alone: Whether the network is all that is wanted: then other parts need not be anywhere.

    Raises:
        ValueError: If the file is not a model of a known family, or a part is missing.
    """
    stored = open_weights([path])
    stored = stored.renamed(ema_names(stored.header))
    shapes = stored.shapes
    try:
        layout = recognise(shapes)
        configs = derived(layout, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    configs["scheduler"] = levels_of(stored, layout, shapes)
    shipped = open_directory(Path(str(files("sigmafield"))) / "data" / "configs" / layout.family)
    elsewhere = shipped if alone else open_directory(parts) if parts else None
    file = SingleFile(path, stored, layout, shipped, configs, elsewhere, scratch)
    needed = layout.parts[: 1 if alone else 2 if layout.family in APART else None]
    missing = [part for part in needed if part not in OPTIONAL and file.owner(part) is None]
    if missing:
        where = f"nor has {parts}" if parts else "pass parts=DIRECTORY, one in diffusers' layout that has them"
        raise ValueError(f"{path} is a {layout.family} network without {', '.join(missing)}; {where}")
    return file


def predicts_v(stored: Weights, unet: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a network of Stable Diffusion 2 predicts v: one for four channels, with one norm's biases far apart."""
    if V_NORM not in unet or unet["input_blocks.0.0.weight"][1] != 4:
        return False
    name = next(name for name in stored.header if name.endswith(V_NORM))
    [(_, value)] = stored.read([name])
    return bool(unpacked(value).float().std(correction=0) > V_SPREAD)


def levels_of(stored: Weights, layout: Layout, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Derives entries of the scheduler's config from a file: prediction and noise levels of its network."""
    if layout.family == "flux" and f"{layout.prefixes['transformer']}guidance_in.in_layer.weight" not in shapes:
        return {"shift": 1.0, "use_dynamic_shifting": False}  # schnell
    if layout.family.startswith("sdxl"):
        prediction = "v_prediction" if "v_pred" in shapes else "epsilon"
        return {"prediction_type": prediction, "rescale_betas_zero_snr": "v_pred" in shapes and "ztsnr" in shapes}
    if layout.family == "sd2":
        return {"prediction_type": "v_prediction" if predicts_v(stored, layout.of("unet", shapes)) else "epsilon"}
    return {}
