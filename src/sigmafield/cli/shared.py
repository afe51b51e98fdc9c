"""What the images of a batch have in common, kept from one to the next: input files, the model, networks that steer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from sigmafield.core.plain import to_plain
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.execute import open_pipe
from sigmafield.recipes.inputs import Inputs, read_inputs
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL
from sigmafield.recipes.steering import Steering, steering_of

FILES = (
    "image", "image_sha256", "mask", "mask_sha256", "mask_from", "denoise_map", "denoise_map_sha256", "controls",
    "ip_adapters", "references", "loras",
)  # fmt: skip
"""Fields of a recipe that name files which are read, with their digests and how they are read."""

LORAS = ("loras", "lora_partial")
"""Fields of a recipe that say what is added to its weights."""


class Shared:
    """The inputs, the model and what steers of the last image, for the next one that has the same.

    Args:
        machine: What the models run on.
    """

    def __init__(self, machine: MachineOptions):
        self.machine = machine
        self._read: tuple[str, Recipe, Inputs] | None = None
        self._pipe: tuple[str, str, Pipeline] | None = None
        self._steering: tuple[str, Pipeline, Steering] | None = None

    def inputs(self, recipe: Recipe) -> tuple[Recipe, Inputs]:
        """The recipe with the digests of its files, and what is in them; errors as for `read_inputs`."""
        key = _key(recipe, FILES)
        if self._read is None or self._read[0] != key:
            self._read = None
            self._read = key, *read_inputs(recipe)
        _, sealed, inputs = self._read
        return replace(recipe, **{name: getattr(sealed, name) for name in FILES}), inputs

    def pipe(self, sealed: Recipe) -> Pipeline:
        """The model of a recipe; errors as for `open_pipe`. The one before is given up first, to save memory.

        The LoRAs of the first recipe are merged into the weights. Where those of another recipe differ, the weights are
        kept without LoRAs from then on, unless the network is compiled.
        """
        model, loras = _key(sealed, OF_THE_MODEL), _key(sealed, LORAS)
        if self._pipe is not None and self._pipe[0] == model and self._pipe[1] != loras and not self.machine.compile:
            kept, self._pipe, self._steering = self._pipe[2], None, None
            if kept.loras and kept.unmerged is None:
                del kept
                kept = open_pipe(replace(sealed, loras=()), **self.machine.load_arguments())
            self._pipe = model, loras, kept.with_loras([lora.pair for lora in sealed.loras], sealed.lora_partial)
        if self._pipe is None or self._pipe[:2] != (model, loras):
            self._pipe = self._steering = None
            self._pipe = model, loras, open_pipe(sealed, **self.machine.load_arguments())
        return self._pipe[2]

    def steering(self, sealed: Recipe, inputs: Inputs, pipe: Pipeline) -> Steering:
        """What steers; errors as for `steering_of`."""
        key = _key(sealed, ("controls", "ip_adapters"))
        if self._steering is None or self._steering[:2] != (key, pipe):
            self._steering = None
            self._steering = key, pipe, steering_of(sealed, inputs, pipe)
        return self._steering[2]


def _key(recipe: Recipe, names: Sequence[str]) -> str:
    return json.dumps([to_plain(getattr(recipe, name)) for name in names])
