"""The nodes of the distance sampler's pack."""

from __future__ import annotations

from typing import Annotated

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sampling import NamedSampler
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Sampler
from sigmafield.core.annotations import Range
from sigmafield.core.registry import Spec

PACK = "custom_nodes.ComfyUI-Distance-Sampler"
CATEGORY = "sampling/custom_sampling/samplers"
Resample = Annotated[int, Range(-1, 32)]
Eta = Annotated[float, Range(0, 32), Input(step=0.01)]
Noise = Annotated[float, Range(-100, 100), Input(step=0.01)]
Step = Annotated[int, Range(-10000, 10000)]


@node("SamplerDistance", CATEGORY, module=PACK)
def sampler_distance(resample: Resample = 3, resample_end: Resample = -1, cfgpp: bool = True) -> Sampler:
    """Evaluates the model several times at the next level and goes on with a soft median of the directions.

    Args:
        resample: Evaluations per step at the first level; -1 for a number that follows from the steps.
        resample_end: Evaluations per step at the last level; -1 for as many as at the first.
        cfgpp: Whether steps lead to 2 D − U, which acts as twice the guidance scale.
    """
    return sampler_distance_advanced(resample, resample_end, cfgpp)


@node("SamplerDistanceAdvanced", CATEGORY, module=PACK)
def sampler_distance_advanced(
    resample: Resample = 3,
    resample_end: Resample = -1,
    cfgpp: bool = True,
    eta: Eta = 0.0,
    s_noise: Noise = 1.0,
    distance_step_eta: Eta = 0.0,
    distance_step_s_noise: Noise = 1.0,
    use_softmax: bool = False,
    use_slerp: bool = False,
    perp_step: bool = False,
    use_negative: bool = False,
    smooth: bool = False,
    sharpen: bool = False,
    distance_first: Step = 0,
    distance_last: Step = -1,
    eta_first: Step = 0,
    eta_last: Step = -1,
    distance_eta_first: Step = 0,
    distance_eta_last: Step = -1,
) -> Sampler:
    """The distance sampler with all of its parameters.

    Args:
        resample: Evaluations per step at the first level; -1 for a number that follows from the steps.
        resample_end: Evaluations per step at the last level; -1 for as many as at the first.
        cfgpp: Whether steps lead to 2 D − U, which acts as twice the guidance scale.
        eta: Noise after each step: 0 = none.
        s_noise: Factor of that noise.
        distance_step_eta: Noise within the evaluations of a step: 0 = none.
        distance_step_s_noise: Factor of that noise.
        use_softmax: Whether weights are a softmax.
        use_slerp: Whether directions are averaged on the sphere.
        perp_step: Whether the part along the first direction is removed.
        use_negative: Whether the negative prediction counts as a candidate.
        smooth: Whether predictions are smoothed.
        sharpen: Whether directions are sharpened.
        distance_first: First step with several evaluations; below 0 counted from the end.
        distance_last: Last step with several evaluations.
        eta_first: First step with noise after it.
        eta_last: Last step with noise after it.
        distance_eta_first: First step with noise within it.
        distance_eta_last: Last step with noise within it.
    """
    params = {
        "resample": resample, "resample_end": resample_end, "cfgpp": "doubled" if cfgpp else "off", "eta": eta,
        "s_noise": s_noise, "distance_step_eta": distance_step_eta, "distance_step_s_noise": distance_step_s_noise,
        "use_softmax": use_softmax, "use_slerp": use_slerp, "perp_step": perp_step, "use_negative": use_negative,
        "smooth": smooth, "sharpen": sharpen, "distance_first": distance_first, "distance_last": distance_last,
        "eta_first": eta_first, "eta_last": eta_last, "distance_eta_first": distance_eta_first,
        "distance_eta_last": distance_eta_last,
    }  # fmt: skip
    return NamedSampler(Spec("distance_c3", params))
