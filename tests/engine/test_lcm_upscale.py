"""Resizing, and the consistency run with growing size."""

import pytest
import torch
import torch.nn.functional as F

from sigmafield.core.grid import Grid
from sigmafield.core.process import Flow
from sigmafield.core.resize import MODES, bislerp, resize
from sigmafield.models.analytic import Mixture
from sigmafield.noise.sources import Keyed
from sigmafield.runs.lcm_upscale import factors, lcm_upscale
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import karras

SIGMAS = karras(5, 0.1, 10.0)
MODEL = Mixture()


def denoise(x, sigma, ctx):
    return MODEL(x, sigma)


def states(x, start=None, **params):
    return list(lcm_upscale(denoise, x if start is None else start, SIGMAS, [7] * len(x), **params))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", [(6, 8), (3, 6, 8)], ids=str)
def test_resize_keeps_a_constant_and_the_frames(mode, space):
    x = torch.randn(2, 4, *[1] * len(space)).expand(2, 4, *space)
    out = resize(x, 9, 16, mode)
    torch.testing.assert_close(out, x[..., :1, :1].expand(2, 4, *space[:-2], 9, 16))
    clip = torch.randn(2, 4, 3, 6, 8)
    torch.testing.assert_close(resize(clip, 9, 16, mode)[:, :, 1], resize(clip[:, :, 1], 9, 16, mode))


def test_same_size_is_the_identity():
    x = torch.randn(2, 4, 6, 8)
    for mode in MODES:
        torch.testing.assert_close(resize(x, 6, 8, mode), x, atol=1e-5, rtol=1e-5)


def test_bislerp_interpolates_angle_and_length():
    """Halfway between perpendicular vectors of length 1 and 3: at 45 degrees, of length 2."""
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])[None, :, None, :]  # channels (1, 0) and (0, 3) at neighbouring positions
    out = bislerp(x, 1, 4)[0, :, 0]
    angle, length = torch.atan2(out[1], out[0]), out.norm(dim=0)
    where = F.interpolate(torch.tensor([[[[0.0, 1.0]]]]), (1, 4), mode="bilinear")[0, 0, 0]
    torch.testing.assert_close(angle, where * torch.pi / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(length, 1 + 2 * where, atol=1e-5, rtol=0)


def test_bislerp_keeps_the_variance_of_noise_where_the_mean_loses_it():
    x = torch.randn(4, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    assert resize(x, 48, 48, "bislerp").var() > 0.9
    assert resize(x, 48, 48, "bilinear").var() < 0.7


def test_scale_1_is_lcm():
    x = 10 * torch.randn(2, 3, 6, 6, dtype=torch.float64)
    run = Run(denoise, SAMPLERS.lookup("lcm"), Grid(SIGMAS, MODEL.process), Keyed([7, 7], x.shape, x.dtype))
    end = states(x, scale=1.0, mode="nearest-exact")[-1]
    torch.testing.assert_close(end.x, finish(run, x).x)
    assert end.nfe == 5


def test_scale_1_with_a_flows_noise_is_lcm_on_the_flow():
    x, model = torch.randn(2, 3, 6, 6, dtype=torch.float64), Mixture(process=Flow())
    sigmas = torch.linspace(1, 0, 6, dtype=torch.float64)

    def denoise(x, sigma, ctx):
        return model(x, sigma)

    exact = finish(Run(denoise, SAMPLERS.lookup("lcm"), Grid(sigmas, Flow()), Keyed([7, 7], x.shape, x.dtype)), x).x
    of = {"scale": 1.0, "mode": "nearest-exact", "process": Flow()}
    *_, end = lcm_upscale(denoise, x, sigmas, [7, 7], flow_noise=True, **of)
    torch.testing.assert_close(end.x, exact)
    *_, as_comfyui = lcm_upscale(denoise, x, sigmas, [7, 7], **of)
    assert not torch.allclose(as_comfyui.x, exact, atol=0.01)


def test_it_grows_and_resumes():
    x = 10 * torch.randn(2, 3, 6, 10)
    whole = states(x, scale=2.0, steps=2)
    assert [tuple(st.x.shape[-2:]) for st in whole] == [(9, 15), (12, 20), (12, 20), (12, 20), (12, 20)]
    for cut in whole[:-1]:
        assert torch.equal(states(x, start=cut, scale=2.0, steps=2)[-1].x, whole[-1].x)


def test_factors():
    assert factors(5, 2.0) == pytest.approx([4 / 3, 5 / 3, 2.0])
    assert factors(5, 3.0, 2) == [2.0, 3.0]
    assert factors(5, 3.0, 0) == []


@pytest.mark.parametrize(
    "params, message",
    [
        ({"mode": "bilinaer"}, "unknown mode 'bilinaer'; did you mean bilinear"),
        ({"scale": 0.0}, "scale must be above 0; got 0.0"),
        ({"steps": -1}, "steps must be ≥ 0, or None; got -1"),
    ],
)
def test_errors(params, message):
    with pytest.raises(ValueError, match=message):
        states(torch.randn(1, 3, 6, 6), **params)


def test_a_field_is_refused():
    field = SIGMAS.reshape(-1, 1, 1, 1, 1).expand(-1, 1, 1, 6, 6)
    with pytest.raises(ValueError, match="one sigma per step"):
        next(lcm_upscale(denoise, torch.randn(1, 3, 6, 6), field, [0]))
