"""What a server is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What jobs run on, how many at a time, and what is kept of them.

    Args:
        models: Models that are loaded at the start; the first one is the default of jobs that name none. Others are
            loaded when a job needs them.
        devices: Devices that jobs run on, such as "cuda:0" and "cuda:1"; none is the best device there is. A device
            that is named twice has two pools of jobs.
        dtype: float32, float16 or bfloat16, of the networks; None is the device's usual one.
        exact: Give every network call the same number of rows, so that an image does not depend on the jobs that run
            at the same time, to the last bit. It costs rows that are computed in vain.
        rows: Rows of every network call in exact mode.
        max_rows: Most rows of one network call, for little memory; None is no limit.
        window: Seconds that a network call waits for those of other jobs; None is measured.
        active: Most jobs that run at the same time on a device; None is as many as add throughput, by measurement.
        queue_length: Most jobs that wait or are paused; further ones are refused.
        jobs_per_owner: Most unfinished jobs of one owner; None is no limit.
        keep_hours: Hours after which a finished job is deleted with its outputs; None keeps it.
        keep_jobs: Finished jobs that are kept, the latest; None keeps all.
        keep_models: Models in memory for each device, the last used.
        keep_states: Saved states of a job that are kept, the latest: a clone can start from each.
        save_every: Seconds between two saved states of a run: what a crash can cost.
        preview_every: Seconds between two previews of a run; inf makes none.
        offload: Keep parts of models on the CPU until they are needed.
        compile: Compile the networks: the first call is slow, later ones faster.

    Raises:
        ValueError: A value has the wrong type or is out of range, or there are no models.
    """

    models: Sequence[str] = ("tiny",)
    devices: Sequence[str] = ()
    dtype: str | None = None
    exact: bool = False
    rows: Annotated[int, Range(1)] = 8
    max_rows: Annotated[int | None, Range(1)] = None
    window: Annotated[float | None, Range(0)] = None
    active: Annotated[int | None, Range(1)] = None
    queue_length: Annotated[int, Range(1)] = 1000
    jobs_per_owner: Annotated[int | None, Range(1)] = None
    keep_hours: Annotated[float | None, Range(0, above=True)] = None
    keep_jobs: Annotated[int | None, Range(0)] = 1000
    keep_models: Annotated[int, Range(1)] = 2
    keep_states: Annotated[int, Range(1)] = 3
    save_every: Annotated[float, Range(0, float("inf"))] = 5.0
    preview_every: Annotated[float, Range(0, float("inf"))] = 1.0
    offload: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "devices", tuple(self.devices))
        settle(self, "the engine")
        if not self.models:
            raise ValueError("models needs at least one model: the first is that of jobs that name none")
        if self.exact and self.max_rows is not None and self.rows > self.max_rows:
            raise ValueError(f"exact needs rows ≤ max_rows; got rows = {self.rows} and max_rows = {self.max_rows}")
