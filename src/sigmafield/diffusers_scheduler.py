"""Any sampler as a diffusers scheduler: the pipeline owns the network, and calls `step` with its predictions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.protocols import Pred
from sigmafield.core.registry import near_miss
from sigmafield.models.scheduler_config import network_entries, sampling_at
from sigmafield.noise.policy import default_noise
from sigmafield.runs.inside_out import FromGenerators, InsideOut, Plan, plan, suits_pipelines
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES, grid_of

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
except ImportError as error:
    raise ImportError(
        f'a diffusers scheduler needs diffusers ({error}):\npip install "sigmafield[diffusers]"'
    ) from error


class SigmafieldScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of `SAMPLERS` on a schedule of `SCHEDULES`, with the interface of diffusers' schedulers.

    A sampler with several evaluations per step has as many timesteps per step, so one call of `step` is one evaluation.
    The state of the run is the sample that the pipeline holds, so changes that the pipeline makes between two steps
    count. `from_config` reads the entries that describe the network from the model's own scheduler.

    Args:
        sampler: Name of the sampler.
        schedule: Name of the schedule; None for the levels that the pipeline passes, and "normal" if it passes none.
        params: Keyword parameters of the sampler; `from_config` also takes them as keywords.
        seed: Seed of the noise, as in `sigmafield.sample`, used if the pipeline passes no generator to `step`.
        num_train_timesteps: Number of training steps of the network.
        prediction_type: epsilon, v_prediction or flow_prediction.
        beta_schedule: Name of the variance schedule of a discrete network.
        beta_start: First variance of a discrete network.
        beta_end: Last variance of a discrete network.
        trained_betas: All variances of a discrete network, instead of a named schedule.
        rescale_betas_zero_snr: Whether the last level of a discrete network is rescaled to pure noise.
        shift: Time shift of a flow.
        use_dynamic_shifting: Whether the time shift of a flow follows from the mu given to `set_timesteps`.
        time_shift_type: How it follows: "exponential" is e^mu, "linear" is mu.

    Raises:
        ValueError: If a name is unknown, or the sampler chooses its own steps, needs the unconditional prediction
            (CFG++) or moves x before it evaluates (s_churn > 0), none of which a pipeline allows for.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers] + ["FlowMatchEulerDiscreteScheduler"]
    order = 1
    """Evaluations per step, except for the last steps; 1 if timesteps do not come in groups."""

    @register_to_config
    def __init__(
        self,
        sampler: str = "dpmpp_2m",
        schedule: str | None = None,
        params: dict[str, Any] | None = None,
        seed: int = 0,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        beta_schedule: str | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ):
        self._sampler, self._params = SAMPLERS.lookup(sampler), dict(params or {})
        if schedule is not None:
            SCHEDULES.lookup(schedule)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be 0 … 2**64 - 1; got {seed}")
        suits_pipelines(self._sampler, self._params)
        self._sampling = sampling_at(self.config, 1.0)
        trial = plan(self._sampler, grid_of(self._sampling, schedule, steps=4), self._params)
        self.order = max(map(len, trial.asked)) if len(trial.asked) == 4 else 1
        self.timesteps, self.sigmas, self._levels = torch.empty(0), torch.empty(0), torch.empty(0)
        self.num_inference_steps: int | None = None
        self._plan: Plan | None = None
        self._reset()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler for the network that another scheduler's config describes.

        Args:
            config: Config of the other scheduler.
            return_unused_kwargs: As in diffusers.
            **kwargs: Parameters of this class or of the sampler. With a new sampler, parameters of the old one are
                dropped.

        Raises:
            ValueError: If a parameter is unknown, or the config has an entry that is not supported.
        """
        config = network_entries(config or {})
        own = set(inspect.signature(cls.__init__).parameters) - {"self"}
        sampler = SAMPLERS.lookup(kwargs.get("sampler", config.get("sampler", "dpmpp_2m")))
        for name in kwargs:
            if name not in own and name not in sampler.defaults:
                known = own | set(sampler.defaults)
                raise ValueError(f"neither {cls.__name__} nor {sampler.name} has {name!r}{near_miss(name, known)}")
        kept = {} if "sampler" in kwargs else config.get("params") or {}
        named = {name: kwargs.pop(name) for name in [*kwargs] if name not in own}
        kwargs["params"] = {**kept, **(kwargs.get("params") or {}), **named}
        return super().from_config(config, return_unused_kwargs, **kwargs)

    # -- the schedule

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run, given one of `num_inference_steps`, `sigmas` and `timesteps`.

        Afterwards, `timesteps` holds the network's time of every evaluation, float32 on the device. `sigmas` holds
        their levels and the one that the run ends at, float32 on the CPU. For a flow with a named schedule, only the
        number of entries of the given sigmas or timesteps is used; for other networks with a named schedule they are
        refused.

        Args:
            num_inference_steps: Number of steps.
            device: Device of `timesteps`.
            sigmas: Levels as numbers, an array or a tensor, as diffusers has them: for a discrete network with the
                level that the run ends at, for a flow without the final 0 and before the shift.
            timesteps: The network's clock as numbers, an array or a tensor, without the end, for a flow before the
                shift.
            mu: Logarithm of the shift (or the shift itself) if the config says use_dynamic_shifting; otherwise ignored.

        Raises:
            ValueError: If not exactly one of the three is given, they make no step, or mu is missing.
        """
        if self.config["use_dynamic_shifting"] and mu is None:
            raise ValueError("mu must be given: the config says use_dynamic_shifting")
        self._sampling = sampling_at(self.config, mu)
        grid = grid_of(
            self._sampling, self.config["schedule"], steps=num_inference_steps, sigmas=sigmas, timesteps=timesteps
        )
        if not grid.n:
            raise ValueError("sigmas and timesteps must make at least one step")
        self._plan = plan(self._sampler, grid, self._params)
        asked, levels = self._plan.sigmas, self._sampling.levels
        self.num_inference_steps = grid.n
        self.timesteps = levels.timestep(asked).float().to(device)
        # the first x has the schedule's first level, even if the sampler evaluates it at another
        self._levels = torch.cat([grid.sigmas[:1], asked[1:], self._plan.run.grid.sigmas[-1:]])
        self.sigmas = self._levels.float()
        self._reset()

    @property
    def init_noise_sigma(self) -> float:
        """Factor that turns unit-variance noise into the first x."""
        self._needed()
        unit = torch.ones(1, 1, 1, dtype=torch.float64)
        return float(self._sampling.process.start(self._levels[0], unit, torch.zeros_like(unit)))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples with noise added.

        The level is that of the next evaluation if the pipeline has set where to begin, otherwise that of `timesteps`.

        Args:
            original_samples: Clean samples [B, …].
            noise: Unit-variance noise of the same shape.
            timesteps: Timesteps [B].
        """
        index = self._step_index if self._step_index is not None else self._begin_index
        if self._begin_index is None or index is None:
            places = [self.index_for_timestep(t) for t in timesteps]
        else:
            places = [index] * timesteps.shape[0]
        self._needed()
        sigma = self._levels[places].reshape(-1, *[1] * (original_samples.ndim - 1))
        clean, xi = original_samples.float(), noise.float()
        return self._sampling.process.start(sigma, xi, clean).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` under the name that pipelines of flows call."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    # -- the run

    @property
    def step_index(self) -> int | None:
        """Index in `timesteps` of the next evaluation; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index in `timesteps` that the pipeline begins at; None if the pipeline has not set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at this index of `timesteps`, for image to image: a run over the rest of the schedule.

        Args:
            begin_index: Index in `timesteps` at which a step begins.

        Raises:
            ValueError: If no step begins there, or a shorter run has other timesteps (dpm_fast, sa_solver_pece,
                distance).
        """
        self._needed().rest(begin_index)
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: Tensor | float | int) -> int:
        """Index of a timestep in `timesteps`: the first step that begins with it, or else the first evaluation.

        Args:
            timestep: Value to look up.

        Raises:
            ValueError: If it is not one of `timesteps`.
        """
        starts, same = self._needed().starts, (self.timesteps == timestep).nonzero().flatten().tolist()
        if not same:
            raise ValueError(f"timestep {float(timestep):g} is not in this run; take it from `timesteps`")
        return next((k for k in same if k in starts), same[0])

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | int | None = None) -> Tensor:
        """The input of the network for a sample: c_in x."""
        return lincomb(self._sampling.prediction(self._next(timestep)).c_in, sample)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float | int,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The next x to evaluate, from the network's output for this one; after the last evaluation, the clean latent.

        Computes in float32, or in float64 for a float64 sample.

        Args:
            model_output: Output of the network.
            timestep: Timestep of the evaluation.
            sample: The x that was evaluated.
            generator: One generator, or one per sample; the first call of a run decides where its noise comes from:
                `FromGenerators`, or the scheduler's seed for None.
            return_dict: Whether to return diffusers' output object instead of a tuple.

        Returns:
            prev_sample and pred_original_sample (x0), of the sample's dtype.
        """
        sigma = self._next(timestep)
        x = sample if sample.dtype == torch.float64 else sample.float()
        if self._run is None:
            self._run = self._opened(x, generator)
        pre = self._sampling.prediction(sigma)
        x0 = lincomb(pre.c_skip, x, pre.c_out, model_output.to(x.dtype))
        prev, clean = self._run.answer(x, Pred(x0)).to(sample.dtype), x0.to(sample.dtype)
        self._step_index = (self._step_index or 0) + 1
        if not return_dict:
            return prev, clean
        return EulerDiscreteSchedulerOutput(prev_sample=prev, pred_original_sample=clean)  # type: ignore[arg-type]

    def _opened(self, x: Latent, generator: torch.Generator | list[torch.Generator] | None) -> InsideOut:
        """The run from where the pipeline begins, with its source of noise."""
        part = self._needed().rest(self._step_index or 0)
        if generator is None or not part.run.draws:
            return InsideOut(part.run, default_noise(self._sampler.noise, self.config["seed"], part.grid, x))
        generators = generator if isinstance(generator, list) else [generator]
        return InsideOut(part.run, FromGenerators(generators, self._sampler, part.grid, x))

    def _next(self, timestep: Tensor | float | int | None) -> Sigma:
        """σ of the next evaluation; the first call decides where the run begins."""
        sigmas = self._needed().sigmas
        if self._step_index is None:
            index = self._begin_index
            if index is None:
                index = 0 if timestep is None else self.index_for_timestep(timestep)
            self._step_index = index
        if self._step_index >= len(sigmas):
            raise ValueError(f"all {len(sigmas)} evaluations have been made: call set_timesteps for another run")
        return sigmas[self._step_index]

    def _needed(self) -> Plan:
        if self._plan is None:
            raise ValueError("there is no schedule yet: call set_timesteps")
        return self._plan

    def _reset(self) -> None:
        """Forget the run and where it was to begin."""
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._run: InsideOut | None = None
