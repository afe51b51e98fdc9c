"""The sampling that a network was trained for, read from a diffusers scheduler_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sigmafield.levels import betas
from sigmafield.maths import near_miss
from sigmafield.param import Sampling, discrete_sampling

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v"}
SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")


def sampling_of(config: Mapping[str, Any]) -> Sampling:
    """Prediction and noise levels of a network; which sampler the scheduler's class stands for is ignored.

    Raises ValueError naming the key, its value and what is supported, or the key that is missing.
    """
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        raise ValueError(f"scheduler: unknown prediction_type {kind!r}{near_miss(str(kind), PREDICTION_TYPES)}")
    return discrete_sampling(PREDICTION_TYPES[kind], variances(config), bool(config.get("rescale_betas_zero_snr")))


def variances(config: Mapping[str, Any]) -> np.ndarray:
    """β of each training step, float64 [num_train_timesteps]."""
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
