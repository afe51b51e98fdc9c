"""Nodes that choose a sampler and its parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.lcm import LcmUpscaleSampler
from sigmafield.comfyui.names import SamplerName, our_name
from sigmafield.comfyui.sampling import NamedSampler
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Model, Sampler
from sigmafield.comfyui.widgets import Amount, Percent
from sigmafield.core.annotations import Range
from sigmafield.core.registry import Spec
from sigmafield.samplers.er_sde import er_noise, ode, reverse_time


@node("KSamplerSelect", "sampling/custom_sampling/samplers", version=3)
def ksampler_select(sampler_name: SamplerName) -> Sampler:
    """A sampler with its default parameters.

    Args:
        sampler_name: The sampler.
    """
    return NamedSampler(Spec(our_name(sampler_name)))


@node("SamplerEulerAncestral", "sampling/custom_sampling/samplers")
def sampler_euler_ancestral(eta: Amount = 1.0, s_noise: Amount = 1.0) -> Sampler:
    """Euler with noise added after each step.

    Args:
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
    """
    return NamedSampler(Spec("euler_ancestral", {"eta": eta, "s_noise": s_noise}))


@node("SamplerEulerAncestralCFGPP", "sampling/custom_sampling/samplers", title="SamplerEulerAncestralCFG++")
def sampler_euler_ancestral_cfg_pp(
    eta: Annotated[float, Range(0.0, 1.0), Input(step=0.01, round=False)] = 1.0,
    s_noise: Annotated[float, Range(0.0, 10.0), Input(step=0.01, round=False)] = 1.0,
) -> Sampler:
    """Euler ancestral in the form of CFG++.

    Args:
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
    """
    return NamedSampler(Spec("euler_ancestral_cfg_pp", {"eta": eta, "s_noise": s_noise}))


@node("SamplerEulerCFGpp", "_for_testing", title="SamplerEulerCFG++", version=3, experimental=True)
def sampler_euler_cfg_pp(version: Literal["regular", "alternative"]) -> Sampler:
    """Euler in the form of CFG++.

    Args:
        version: The paper's form, or a step with the direction away from the unconditional prediction.
    """
    return NamedSampler(Spec("euler_cfg_pp" if version == "regular" else "euler_pp"))


@node("SamplerLMS", "sampling/custom_sampling/samplers")
def sampler_lms(order: Annotated[int, Range(1, 100)] = 4) -> Sampler:
    """Linear multistep (Adams–Bashforth).

    Args:
        order: Most earlier predictions that a step uses.
    """
    return NamedSampler(Spec("lms", {"order": order}))


@node("SamplerDPMPP_3M_SDE", "sampling/custom_sampling/samplers", version=3)
def sampler_dpmpp_3m_sde(eta: Amount = 1.0, s_noise: Amount = 1.0, *, noise_device: Literal["gpu", "cpu"]) -> Sampler:
    """DPM-Solver++(3M) SDE.

    Args:
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
        noise_device: Where the noise is drawn: on the GPU, if the model is there, or on the CPU.
    """
    return NamedSampler(Spec(_on(noise_device, "dpmpp_3m_sde"), {"eta": eta, "s_noise": s_noise}))


@node("SamplerDPMPP_2M_SDE", "sampling/custom_sampling/samplers", version=3)
def sampler_dpmpp_2m_sde(
    solver_type: Literal["midpoint", "heun"],
    eta: Amount = 1.0,
    s_noise: Amount = 1.0,
    *,
    noise_device: Literal["gpu", "cpu"],
) -> Sampler:
    """DPM-Solver++(2M) SDE.

    Args:
        solver_type: How the second-order term is approximated.
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
        noise_device: Where the noise is drawn: on the GPU, if the model is there, or on the CPU.
    """
    return NamedSampler(
        Spec(_on(noise_device, "dpmpp_2m_sde"), {"solver": solver_type, "eta": eta, "s_noise": s_noise})
    )


@node("SamplerDPMPP_SDE", "sampling/custom_sampling/samplers", version=3)
def sampler_dpmpp_sde(
    eta: Amount = 1.0, s_noise: Amount = 1.0, r: Amount = 0.5, *, noise_device: Literal["gpu", "cpu"]
) -> Sampler:
    """DPM-Solver++ SDE with two evaluations per step.

    Args:
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
        r: Share of the step where the second evaluation is.
        noise_device: Where the noise is drawn: on the GPU, if the model is there, or on the CPU.
    """
    return NamedSampler(Spec(_on(noise_device, "dpmpp_sde"), {"eta": eta, "s_noise": s_noise, "r": r}))


@node("SamplerDPMPP_2S_Ancestral", "sampling/custom_sampling/samplers")
def sampler_dpmpp_2s_ancestral(eta: Amount = 1.0, s_noise: Amount = 1.0) -> Sampler:
    """DPM-Solver++(2S) with noise added after each step.

    Args:
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
    """
    return NamedSampler(Spec("dpmpp_2s_ancestral", {"eta": eta, "s_noise": s_noise}))


@node("SamplerDPMAdaptative", "sampling/custom_sampling/samplers")
def sampler_dpm_adaptive(
    order: Annotated[int, Range(2, 3)] = 3,
    rtol: Amount = 0.05,
    atol: Amount = 0.0078,
    h_init: Amount = 0.05,
    pcoeff: Amount = 0.0,
    icoeff: Amount = 1.0,
    dcoeff: Amount = 0.0,
    accept_safety: Amount = 0.81,
    eta: Amount = 0.0,
    s_noise: Amount = 1.0,
) -> Sampler:
    """DPM-Solver that chooses its own steps.

    Args:
        order: Order of the solver.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        h_init: First step in ln σ.
        pcoeff: Proportional coefficient of the step control.
        icoeff: Integral coefficient of the step control.
        dcoeff: Differential coefficient of the step control.
        accept_safety: Least factor of a step that is accepted.
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
    """
    return NamedSampler(
        Spec(
            "dpm_adaptive",
            {
                "order": order,
                "rtol": rtol,
                "atol": atol,
                "h_init": h_init,
                "pcoeff": pcoeff,
                "icoeff": icoeff,
                "dcoeff": dcoeff,
                "accept_safety": accept_safety,
                "eta": eta,
                "s_noise": s_noise,
            },
        )
    )


@node("SamplerER_SDE", "sampling/custom_sampling/samplers", version=3)
def sampler_er_sde(
    solver_type: Literal["ER-SDE", "Reverse-time SDE", "ODE"],
    max_stage: Annotated[int, Range(1, 3)] = 3,
    eta: Amount = 1.0,
    s_noise: Amount = 1.0,
) -> Sampler:
    """Extended reverse-time SDE.

    Args:
        solver_type: Which equation is solved.
        max_stage: Most predictions that a step uses, earlier ones included.
        eta: Amount of noise of the reverse-time SDE; 0 gives the ODE.
        s_noise: Factor of the noise.
    """
    if solver_type == "ODE" or (solver_type == "Reverse-time SDE" and eta == 0):
        return NamedSampler(Spec("er_sde", {"noise_scaler": ode, "s_noise": 0.0, "max_stage": max_stage}))
    scaler = er_noise if solver_type == "ER-SDE" else reverse_time(eta)
    return NamedSampler(Spec("er_sde", {"noise_scaler": scaler, "s_noise": s_noise, "max_stage": max_stage}))


@node("SamplerSASolver", "sampling/custom_sampling/samplers")
def sampler_sa_solver(
    model: Model,
    eta: Annotated[float, Range(0.0, 10.0), Input(step=0.01, round=False)] = 1.0,
    sde_start_percent: Percent = 0.2,
    sde_end_percent: Percent = 0.8,
    s_noise: Amount = 1.0,
    predictor_order: Annotated[int, Range(1, 6)] = 3,
    corrector_order: Annotated[int, Range(0, 6)] = 4,
    *,
    use_pece: bool,
    simple_order_2: bool,
) -> Sampler:
    """Stochastic Adams solver.

    Args:
        model: The model, whose levels say where the SDE begins and ends.
        eta: Amount of noise: 0 = none.
        sde_start_percent: Share of the way through sampling from which noise is added.
        sde_end_percent: Share of the way through sampling up to which noise is added.
        s_noise: Factor of the noise.
        predictor_order: Order of the predictor.
        corrector_order: Order of the corrector; 0 leaves it out.
        use_pece: Whether each step evaluates the model once more after the correction.
        simple_order_2: Whether order 2 has its simple form.
    """
    return NamedSampler(
        Spec(
            "sa_solver",
            {
                "eta": eta,
                "sde_start_percent": sde_start_percent,
                "sde_end_percent": sde_end_percent,
                "s_noise": s_noise,
                "predictor_order": predictor_order,
                "corrector_order": corrector_order,
                "use_pece": use_pece,
                "simple_order_2": simple_order_2,
            },
        )
    )


@node("SamplerSEEDS2", "sampling/custom_sampling/samplers", version=3)
def sampler_seeds_2(
    solver_type: Literal["phi_1", "phi_2"],
    eta: Amount = 1.0,
    s_noise: Amount = 1.0,
    r: Annotated[float, Range(0.01, 1.0), Input(step=0.01, round=False)] = 0.5,
) -> Sampler:
    """SEEDS-2 with two evaluations per step.

    Args:
        solver_type: Which φ function weighs the second evaluation.
        eta: Amount of noise: 0 = none.
        s_noise: Factor of the noise.
        r: Share of the step where the second evaluation is.
    """
    return NamedSampler(Spec("seeds_2", {"solver": solver_type, "eta": eta, "s_noise": s_noise, "r": r}))


@node("SamplerLCMUpscale", "sampling/custom_sampling/samplers", version=3)
def sampler_lcm_upscale(
    scale_ratio: Annotated[float, Range(0.1, 20.0), Input(step=0.01)] = 1.0,
    scale_steps: Annotated[int, Range(-1, 1000), Input(step=1)] = -1,
    *,
    upscale_method: Literal["bislerp", "nearest-exact", "bilinear", "area", "bicubic"],
) -> Sampler:
    """Consistency sampling whose latent grows between the steps.

    Args:
        scale_ratio: Last size in multiples of the first.
        scale_steps: Number of steps in which the latent grows; -1 for half of them.
        upscale_method: The interpolation.
    """
    return LcmUpscaleSampler(scale_ratio, None if scale_steps < 0 else scale_steps, upscale_method)


def _on(noise_device: str, sampler: str) -> str:
    """The sampler whose noise is drawn on that device."""
    return sampler if noise_device == "cpu" else f"{sampler}_gpu"
