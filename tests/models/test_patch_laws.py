"""Laws of every mod that acts within the network, on a UNet: it acts, it costs what it says, it is gone."""

import hashlib
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches import module_hooks
from sigmafield.guidance.patches.perturbed_attention import identity_attention
from sigmafield.guidance.patches.unet_blocks import middle_attentions
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.mods import MODS, parse_mods
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish, iterate
from small_network import small_model

NEUTRAL = {
    "pag": "pag(scale=0)",
    "seg": "seg(scale=0)",
    "sag": "sag(scale=0)",
    "nag": "nag(scale=1)",
    "freeu": "freeu(b1=1, b2=1, s1=1, s2=1)",
    "freeu_v2": "freeu_v2(b1=1, b2=1, s1=1, s2=1)",
    "deep_shrink": "deep_shrink(downscale_factor=1, end_percent=1)",
    "hypertile": "hypertile(tile_size=2048, max_depth=2)",
    "tome": "tome(ratio=0, max_downsample=4)",
    "self_attention_multiply": "self_attention_multiply",
    "cross_attention_multiply": "cross_attention_multiply",
}
"""Parameters with which a mod changes nothing, for those that have such."""

ACTING = {
    "deep_shrink": "deep_shrink(end_percent=1)",
    "hypertile": "hypertile(tile_size=32, max_depth=2)",
    "tome": "tome(max_downsample=4)",
    "self_attention_multiply": "self_attention_multiply(q=2, out=0.5)",
    "cross_attention_multiply": "cross_attention_multiply(k=2, v=0.5)",
}
"""Parameters with which a mod acts on the shipped model at σ = 2, for those that need others than their own."""

SIZES = {"hypertile": (128, 128)}
"""Images on which a mod acts, for those that need larger ones."""

NOT_ON_UNETS = {"slg", "slg_simple"}
ON_UNETS = [name for name, mod in MODS.items() if mod.fits and name not in NOT_ON_UNETS]


@pytest.fixture(scope="module")
def pipe():
    return small_model()


@pytest.fixture
def fit(name, pipe):
    """The shipped model, at a size at which the test's mod acts."""
    return replace(pipe, model=replace(pipe.model, size=SIZES.get(name, pipe.model.size)))


@pytest.fixture
def line(name):
    """The test's mod as it acts."""
    return ACTING.get(name, name)


def fingerprint(module):
    """A hash of all that a patch could leave behind: weights, attributes, hooks, forwards and processors."""
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        kept = {k: len(v) if "hooks" in k else repr(v) for k, v in vars(part).items() if k[0] != "_" or "hooks" in k}
        digest.update(f"{name} {type(part)} {sorted(vars(part))} {kept}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Counted:
    """A pipeline whose network counts its calls and rows."""

    def __init__(self, pipe):
        self.calls, self.rows, inner = 0, 0, pipe.model.forward

        def forward(module, x, t, cond):
            self.calls, self.rows = self.calls + 1, self.rows + len(x)
            return inner(module, x, t, cond)

        self.pipe = replace(pipe, model=replace(pipe.model, forward=forward))


def asked(pipe, text="", cfg=4.0, batch=2, sigma=2.0, ctx=None):
    """The guided prediction at one noise level, of a batch of two prompts."""
    P, N = (pipe.text.encode([words] * batch, pipe.model.size) for words in ("a red heart", ""))
    guider = Guider(pipe.model, P, N, cfg, parse_mods(text))
    x = 2.5 * torch.randn(pipe.model.latent.shape(batch, pipe.model.size), generator=torch.Generator().manual_seed(0))
    level = torch.tensor(sigma, dtype=torch.float64)
    with torch.no_grad():
        return guider(
            x,
            level,
            ctx or Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}),
        )


@cache
def plain(size):
    """The prediction without a mod, made once for each size."""
    pipe = small_model()
    return asked(replace(pipe, model=replace(pipe.model, size=size))).x0


@cache
def acting(name):
    """With a mod as it acts: (prediction, calls, rows, the module's fingerprints before and after), made once."""
    pipe = small_model()
    counted = Counted(replace(pipe, model=replace(pipe.model, size=SIZES.get(name, pipe.model.size))))
    was = fingerprint(pipe.model.module)
    x0 = asked(counted.pipe, ACTING.get(name, name)).x0
    return x0, counted.calls, counted.rows, (was, fingerprint(pipe.model.module))


@pytest.mark.parametrize("name", ON_UNETS)
def test_it_acts_and_leaves_the_module_as_it_was(name, fit):
    before = plain(fit.model.size)
    changed, _, _, (was, now) = acting(name)
    assert was == now
    assert not torch.allclose(changed, before, atol=1e-4) and changed.isfinite().all()
    assert torch.equal(asked(fit).x0, before)


@pytest.mark.parametrize("name", ON_UNETS)
def test_it_leaves_the_module_as_it_was_where_the_network_fails(name, line, fit):
    was, inner = fingerprint(fit.model.module), fit.model.forward

    def failing(module, x, t, cond):
        inner(module, x, t, cond)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        asked(replace(fit, model=replace(fit.model, forward=failing)), line)
    assert fingerprint(fit.model.module) == was


@pytest.mark.parametrize("name, text", NEUTRAL.items(), ids=NEUTRAL)
def test_neutral_parameters_change_nothing(text, fit):
    counted = Counted(fit)
    assert torch.allclose(asked(counted.pipe, text).x0, plain(fit.model.size), atol=1e-5)
    assert counted.calls == 1


@pytest.mark.parametrize("name", ON_UNETS)
def test_extra_evaluations_are_as_declared(name):
    _, calls, rows, _ = acting(name)
    assert calls == 1 + MODS[name].evals
    assert rows == 4 + 2 * MODS[name].evals


@pytest.mark.parametrize("name", ON_UNETS)
def test_a_batch_is_its_samples(name, line, fit):
    assert torch.allclose(acting(name)[0][:1], asked(fit, line, batch=1).x0, atol=2e-5)


@pytest.mark.parametrize("name", ON_UNETS)
def test_a_stopped_run_goes_on_to_the_same_image(name, line, fit):
    job = open_job(Recipe("a red heart", steps=3, cfg=3.0, guidance=line), fit)
    states = list(iterate(job.run, job.start))
    assert torch.equal(finish(job.run, states[1]).x, states[-1].x)


@pytest.mark.parametrize("name", [name for name, mod in MODS.items() if mod.fits])
def test_a_network_without_the_place_is_refused_at_once(name):
    with pytest.raises(ValueError, match="Linear"):
        parse_mods(name).check(torch.nn.Linear(2, 2))


def test_identity_attention_is_attention_that_sees_its_own_token(pipe):
    """PAG's W is what a mask gives that leaves each token nothing but itself."""

    def alone(network, call):
        def masked(q, k, v, attention):
            return attention(q, k, v, attn_mask=torch.eye(q.shape[2], dtype=torch.bool))

        return module_hooks.during(
            network, [partial(module_hooks.inside, a, masked) for a in middle_attentions(call.module)]
        )

    level = torch.tensor(2.0, dtype=torch.float64)
    ctx = [
        Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}, patches=(p,))
        for p in (identity_attention, alone)
    ]
    values, masked = (asked(pipe, ctx=c).x0 for c in ctx)
    assert torch.allclose(values, masked, atol=1e-5) and not torch.allclose(values, asked(pipe).x0, atol=1e-3)
