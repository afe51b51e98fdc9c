"""Reads the sampling that a network was trained for from diffusers' scheduler_config.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sigmafield.core.registry import near_miss
from sigmafield.parameterization.prediction import Sampling, discrete_sampling, flow_sampling, flux_sampling
from sigmafield.parameterization.timesteps import betas, resolution_shift

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v"}
FLOW = "flow_prediction"
"""diffusers' name of a rectified flow's prediction, in configs that name one."""

UNSUPPORTED = ("clip_sample", "thresholding", "shift_terminal", "invert_sigmas")
"""Entries of a scheduler's config that change the meaning of the network's output; they are refused when set."""

SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")


def sampling_of(config: Mapping[str, Any]) -> Sampling:
    """Reads prediction and noise levels of discrete diffusion; the sampler that the class stands for is ignored.

    Raises:
        ValueError: If a key is missing or its value is not supported.
    """
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        raise ValueError(f"scheduler: unknown prediction_type {kind!r}{near_miss(str(kind), PREDICTION_TYPES)}")
    return discrete_sampling(PREDICTION_TYPES[kind], variances(config), bool(config.get("rescale_betas_zero_snr")))


def network_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Another scheduler's config with prediction_type and shift as `sampling_at` reads them.

    Raises:
        ValueError: The config has an entry that is not supported.
    """
    entries = {key: value for key, value in config.items() if key != "_use_default_values"}
    for key in UNSUPPORTED:
        if entries.get(key):
            raise ValueError(f"scheduler: {key} = {entries[key]!r} is not supported")
    if entries.get("use_flow_sigmas"):  # a flow in the config of a scheduler of diffusion models
        entries |= {"prediction_type": FLOW, "shift": entries.get("flow_shift", 1.0)}
    elif "prediction_type" not in entries and "shift" in entries:  # FlowMatchEulerDiscreteScheduler and relatives
        entries["prediction_type"] = FLOW
    return entries


def sampling_at(config: Mapping[str, Any], mu: float | None) -> Sampling:
    """Reads the sampling of a network at one image size.

    Args:
        config: The config of a `SigmafieldScheduler`.
        mu: Logarithm of a flow's shift, or the shift itself for time_shift_type "linear"; it counts if the config says
            use_dynamic_shifting.

    Raises:
        ValueError: time_shift_type is neither exponential nor linear.
    """
    kind = config["time_shift_type"]
    if kind not in ("exponential", "linear"):
        raise ValueError(f"time_shift_type must be exponential or linear; got {kind!r}")
    if config["prediction_type"] != FLOW:
        return sampling_of({key: value for key, value in config.items() if value is not None})
    shift, n = float(config["shift"]), config["num_train_timesteps"]
    if config["use_dynamic_shifting"] and mu is not None:
        shift = math.exp(mu) if kind == "exponential" else mu
    return flow_sampling(shift, float(n), n)


def variances(config: Mapping[str, Any]) -> np.ndarray:
    """Reads the variance β of each training step, float64 [num_train_timesteps]."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    missing = [key for key in ("beta_schedule", "beta_start", "beta_end") if key not in config]
    if missing:
        name = config.get("_class_name", "it")
        raise ValueError(f"scheduler: {name} has no {missing[0]}; supported: schedulers of discrete diffusion")
    schedule = config["beta_schedule"]
    if schedule not in SCHEDULES:
        raise ValueError(f"scheduler: unknown beta_schedule {schedule!r}{near_miss(str(schedule), SCHEDULES)}")
    return betas(schedule, config["beta_start"], config["beta_end"], config.get("num_train_timesteps", 1000))


def flow_sampling_of(config: Mapping[str, Any], multiplier: float) -> Sampling:
    """Reads the noise levels of a rectified flow.

    A shift that depends on the image size (use_dynamic_shifting, as for Flux) is fixed at max_shift, the one of large
    images, as in ComfyUI; `shift_by_size` has the rule. shift_terminal is not a fact of the network: it says where
    diffusers' own schedule ends.

    Args:
        config: The scheduler's config.
        multiplier: The network's timestep input is multiplier · σ.

    Raises:
        ValueError: If the config is of another process, or has a setting that is not supported.
    """
    name = config.get("_class_name", "it")
    if not (str(name).startswith("FlowMatch") or config.get("prediction_type") == FLOW):
        raise ValueError(f"scheduler: {name} is for discrete diffusion; supported: schedulers of rectified flow")
    for key, fine in (("invert_sigmas", False), ("time_shift_type", "exponential")):
        if (config.get(key) or fine) != fine:
            raise ValueError(f"scheduler: {key} = {config[key]!r} is not supported; supported: {fine}")
    if config.get("use_dynamic_shifting"):
        mu = float(config.get("max_shift", 1.15))
        return flux_sampling(mu) if multiplier == 1 else flow_sampling(math.exp(mu), multiplier)
    return flow_sampling(float(config.get("flow_shift", config.get("shift", 1.0))), multiplier)


def shift_by_size(config: Mapping[str, Any]) -> Callable[[float], float] | None:
    """Makes the function from an image's tokens to its time shift e^μ, μ linear; None where the shift is fixed."""
    if not config.get("use_dynamic_shifting"):
        return None
    low = float(config.get("base_image_seq_len", 256)), float(config.get("base_shift", 0.5))
    high = float(config.get("max_image_seq_len", 4096)), float(config.get("max_shift", 1.15))
    return lambda tokens: math.exp(resolution_shift(tokens, low, high))
