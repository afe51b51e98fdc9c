"""A network that takes a timestep for each token, diffusers' Wan 2.2 with random weights, serves σ-fields by itself."""

import pytest
import torch
from small_models import randomise

from sigmafield.core.conditioning import Cond
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.network_call import of_tokens
from sigmafield.noise.sources import Keyed
from sigmafield.parameterization.families import family
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES
from sigmafield.spatial.field_denoiser import Served, native
from sigmafield.spatial.sigma_field import delayed, field_from_mask

SAMPLING = family("SD3").sampling()
SHAPE = (2, 4, 3, 4, 6)


@pytest.fixture(scope="module")
def wan():
    pytest.importorskip("diffusers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    torch.manual_seed(0)
    return randomise(
        WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(wan):
    def forward(module, x, t, cond):
        return module(x, t, cond.embeds, return_dict=False)[0]

    latents = LatentFormat(channels=4, axes=3)
    return DiffusionModel("wan", forward, SAMPLING, latents, (32, 48), wan, part="transformer", tokens=(1, 2, 2))


def drawn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def cond(seed):
    return Cond(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)))


def test_a_constant_field_is_one_timestep(wan, model):
    """As diffusers' network is told one timestep a sample, by number and by field."""
    x, sigma = drawn(0), torch.tensor(0.6, dtype=torch.float64)
    ctx = Ctx(Grid(torch.tensor([0.6, 0.0]), SAMPLING.process).span(0), {})
    t = torch.full((2,), float(SAMPLING.levels.timestep(sigma)))
    plain = x - 0.6 * wan(x, t, cond(1).embeds.expand(2, -1, -1), return_dict=False)[0]
    for level in (sigma, sigma.expand(1, 1, 3, 4, 6), sigma.expand(2, 1, 3, 4, 6)):
        (got, _) = model(torch.cat([x, x]), level, [cond(1), cond(2)], ctx)
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-5)


def test_tokens_are_numbered_as_the_network_does(wan, model):
    """The level of one token changes the timestep of that token alone."""
    seen = []
    handle = wan.condition_embedder.timesteps_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    field = torch.full((1, 1, 3, 4, 6), 0.5, dtype=torch.float64)
    field[0, 0, 1, 2:4, 0:2] = 0.25  # frame 1, second row of tokens, first: token 6 + 3
    ctx = Ctx(Grid(torch.stack([field, 0 * field]), SAMPLING.process).span(0), {})
    model(drawn(0), field, [cond(1)], ctx)
    handle.remove()
    t = seen[0].reshape(2, 18)
    assert (t[:, 9] == 250).all() and (t[:, [k for k in range(18) if k != 9]] == 500).all()
    assert of_tokens(field, (1, 2, 2)).shape == (1, 18)


def test_a_run_on_a_field_is_one_evaluation_a_step(wan, model):
    """Frames with schedules of their own: the first is kept exactly, each step is one call, all is finite."""
    calls = []
    handle = wan.register_forward_pre_hook(lambda m, args: calls.append(args[0].shape))
    sigmas = SCHEDULES.lookup("simple")(6, SAMPLING.levels)
    strength = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1).expand(3, 4, 6)
    field = field_from_mask(delayed(sigmas), strength[None], (3, 4, 6))
    source, noise = drawn(1), drawn(2)
    served = Served(Guider(model, cond(1), cond(2), 3.0), source, noise, SAMPLING.process, native)
    run = Run(served, SAMPLERS["dpmpp_2m_sde"], Grid(field, SAMPLING.process), Keyed([1, 2], SHAPE))
    end = finish(run, SAMPLING.process.start(field[0], noise, source)).x
    handle.remove()
    assert len(calls) == 6 and torch.equal(end[:, :, 0], source[:, :, 0])
    assert end.isfinite().all() and (end - source)[:, :, 1:].abs().mean() > 0.1


def test_tokens_must_fill_the_latent(model):
    x, sigma = torch.zeros(1, 4, 3, 5, 6), torch.linspace(0.5, 1, 6, dtype=torch.float64).expand(1, 1, 3, 5, 6)
    ctx = Ctx(Grid(torch.tensor([0.5, 0.0]), SAMPLING.process).span(0), {})
    with pytest.raises(ValueError, match=r"tokens of \(1, 2, 2\) positions do not fill a latent of \(3, 5, 6\)"):
        model(x, sigma, [cond(1)], ctx)
