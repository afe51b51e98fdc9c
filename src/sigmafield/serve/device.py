"""A device with the models that are loaded on it, shared by all jobs that run there, and what joins their calls."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from sigmafield.models.bundle import Pipeline
from sigmafield.models.devices import choose_device
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.load import load as load_model
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.options import Lora, MachineOptions
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL
from sigmafield.recipes.steering import Steering, steering_of
from sigmafield.serve.batcher import Batcher, BatchSettings
from sigmafield.serve.figures import DeviceFigures, memory_of
from sigmafield.serve.settings import EngineSettings

P = ParamSpec("P")
T = TypeVar("T")

Key = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""The arguments of a call that loads, and those by name."""


class Device:
    """One device: its models are loaded when a job needs them, and the calls of its jobs are joined.

    Args:
        name: As torch names it; None is the best device there is.
        settings: How models are loaded, how many are kept, and how calls are joined.

    Raises:
        ValueError: The device does not exist.
    """

    def __init__(self, name: str | None, settings: EngineSettings):
        self.name = str(choose_device(name))
        self.machine = MachineOptions(
            device=self.name, dtype=settings.dtype, offload=settings.offload, compile=settings.compile,
            max_rows=settings.max_rows,
        )  # fmt: skip
        self.batcher = Batcher(BatchSettings(settings.exact, settings.rows, settings.max_rows, settings.window))
        self.most = settings.keep_models
        self._active = settings.active
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[Key, Any]] = {}

    def has_room(self, runs: int) -> bool:
        """Whether one run more than `runs` should be started.

        Without a fixed number of runs it is whether another one adds throughput; before the first network call nothing
        is known of that, so there is one.
        """
        if self._active is not None:
            return runs < self._active
        return runs < 1 or (self.batcher.figures().calls > 0 and self.batcher.pays(runs))

    def pipe(self, recipe: Recipe) -> Pipeline:
        """The model of a recipe with its LoRAs; errors as for `load`.

        Jobs with the same model and LoRAs get the same value, so that their calls can be joined.

        Args:
            recipe: The recipe, with the digests of its files.
        """
        settled = {name: getattr(recipe, name) for name in OF_THE_MODEL}
        loras = tuple(recipe.loras)
        if self.machine.compile:  # a compiled network takes no LoRAs afterwards
            pairs = tuple(lora.pair for lora in loras)
            return self.once(load_model, **settled, loras=pairs, lora_partial=recipe.lora_partial)
        pipe = self.once(load_model, **settled)
        return self.once(with_loras, pipe, loras, recipe.lora_partial) if loras else pipe

    def steering(self, recipe: Recipe, inputs: Inputs, pipe: Pipeline) -> Steering:
        """What steers, with networks that jobs share; errors as for `steering_of`."""
        return steering_of(recipe, inputs, pipe, self.once)

    def once(self, load: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Load a model, or give the one that an equal call has loaded.

        Of each kind of call the results that were used last are kept, each as long as what it was made from. Loading
        does not delay jobs whose models are
        loaded.

        Args:
            load: The function that loads.
            args: Its arguments, which are hashable.
            kwargs: Further ones.
        """
        if load is load_model:  # however it is called, a model is loaded once, and as the settings say
            args, kwargs = (), self._as_set(*args, **kwargs)  # type: ignore[assignment]
        key = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            kept = self._kept.setdefault(load.__qualname__, OrderedDict())
        if (found := self._found(kept, key)) is not None:
            return found
        with self._loading:
            if (found := self._found(kept, key)) is not None:  # loaded by another thread meanwhile
                return found
            with self._lock:  # the one that was not used for the longest time makes room first
                while len(kept) >= self.most:
                    self._forget(kept.popitem(last=False)[1])
            made = self._joined(load(*args, **kwargs))
            with self._lock:
                kept[key] = made
        return made

    def _found(self, kept: OrderedDict[Key, Any], key: Key) -> Any:
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
            return kept.get(key)

    def _forget(self, gone: Any) -> None:
        """Drops what was loaded for something that is dropped, which it would keep in memory; the lock is held."""
        for kept in self._kept.values():
            for key in [key for key in kept if any(each is gone for each in (*key[0], *dict(key[1]).values()))]:
                if key in kept:
                    self._forget(kept.pop(key))

    def _as_set(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All arguments of `load` by name, those about the machine as the settings have them."""
        call = signature(load_model).bind(*args, **kwargs)
        call.apply_defaults()
        return {**call.arguments, **self.machine.load_arguments()}

    def _joined(self, made: Any) -> Any:
        if isinstance(made, Pipeline):
            return replace(made, model=self.batcher.joined(made.model))
        return self.batcher.joined(made) if isinstance(made, DiffusionModel) else made

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are loaded."""
        with self._lock:
            return [pipe.model.name for pipe in self._kept.get(load_model.__qualname__, {}).values()]

    def load(self, model: str) -> None:
        """Load a model before a job needs it; errors as for `load`."""
        self.pipe(Recipe("", model=model))

    def unload(self) -> None:
        """Drop all that is loaded; runs that use it keep it until they end."""
        with self._lock:
            for kept in self._kept.values():
                kept.clear()

    def figures(self, running: int) -> DeviceFigures:
        """What there is to measure, with the number of jobs that run."""
        return DeviceFigures(self.name, running, self.loaded, self.batcher.figures(), memory_of(self.name))

    def close(self) -> None:
        """End the thread that makes calls."""
        self.batcher.close()


class Stepping:
    """Says that a thread steps a run, whose calls those of other runs wait for; it leaves whenever it does not.

    Args:
        batcher: What joins the calls.
        priority: Calls of higher priority are made first.
    """

    def __init__(self, batcher: Batcher, priority: int):
        self._batcher, self._priority = batcher, priority
        self._inside: ExitStack | None = None

    def enter(self) -> None:
        """Let other runs wait for the next call of this thread."""
        if self._inside is None:
            self._inside = ExitStack()
            self._inside.enter_context(self._batcher.running(self._priority))

    def leave(self) -> None:
        """Let no run wait for this thread."""
        if self._inside is not None:
            inside, self._inside = self._inside, None
            inside.close()

    def __enter__(self) -> Stepping:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()


def with_loras(pipe: Pipeline, loras: tuple[Lora, ...], lora_partial: bool) -> Pipeline:
    """The model with LoRAs in its weights, see `Pipeline.with_loras`."""
    return pipe.with_loras([lora.pair for lora in loras], lora_partial)
