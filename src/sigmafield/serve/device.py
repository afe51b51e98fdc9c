"""A device with the models that are loaded on it, shared by all jobs that run there."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import replace

from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.execute import open_pipe
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL
from sigmafield.serve.settings import EngineSettings


class Device:
    """Models on one device, loaded when a job needs them; the last used are kept.

    Args:
        name: As torch names it; None is the best device there is.
        settings: How models are loaded, and how many are kept.
    """

    def __init__(self, name: str | None, settings: EngineSettings):
        self.machine = MachineOptions(
            device=name,
            dtype=settings.dtype,
            offload=settings.offload,
            compile=settings.compile,
            max_rows=settings.max_rows,
        )
        self.most = settings.keep_models
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Pipeline] = OrderedDict()

    def pipe(self, recipe: Recipe) -> Pipeline:
        """The model of a recipe with its LoRAs; errors as for `open_pipe`.

        Jobs with the same model and LoRAs get the same value. Loading does not delay jobs with models that are loaded.
        """
        key = json.dumps([getattr(recipe, name) for name in OF_THE_MODEL])
        with self._lock:
            found = self._models.get(key)
            if found is not None:
                self._models.move_to_end(key)
                return found
        with self._loading:
            with self._lock:
                found = self._models.get(key)
            if found is None:
                with self._lock:  # the one that was used least recently makes room first
                    while len(self._models) >= self.most:
                        self._models.popitem(last=False)
                found = open_pipe(replace(recipe, loras=()), **self.machine.load_arguments())
                with self._lock:
                    self._models[key] = found
        return found

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are loaded."""
        with self._lock:
            return [pipe.model.name for pipe in self._models.values()]
