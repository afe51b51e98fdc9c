"""Guidance by a disturbed network, on small networks of diffusers: each rule against its terms computed by hand."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from test_patch_laws import Counted, fingerprint
from torch.testing import assert_close

from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Flow, Span
from sigmafield.core.protocols import Call, Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches.perturbed_attention import blurred, blurred_attention, identity_attention
from sigmafield.guidance.patches.transformer_blocks import blocks, nearest_grid
from sigmafield.recipes.mods import MODS, parse_mods

pytest.importorskip("diffusers")
SIGMA = torch.tensor(0.7, dtype=torch.float64)
TRANSFORMERS = ["sd3", "flux dev", "auraflow", "lumina2", "wan"]
ALL = ["sd1", "sdxl", *TRANSFORMERS]
LINES = {
    "pag": "pag",
    "seg": "seg",
    "nag": "nag",
    "slg": "slg(double='0', single='0', start_percent=0, end_percent=1)",
    "slg_simple": "slg_simple(double='0', single='0')",
}
PROMPTS = ["a red heart", "the green horse"]


def size_of(pipe):
    return 8 * pipe.model.latent.factor, 12 * pipe.model.latent.factor


def noisy(pipe, batch=2):
    return torch.randn(pipe.model.latent.shape(batch, size_of(pipe), 5), generator=torch.Generator().manual_seed(0))


@cache
def encoded(text, size, batch):
    """The positive and the negative prompts, read once."""
    return text.encode(PROMPTS[:batch], size), text.encode_negative(["1999"] * batch, size)


def conds(pipe, batch=2):
    return encoded(pipe.text, size_of(pipe), batch)


def ctx_of(pipe, sigma=SIGMA, **rest):
    return Ctx(Span(sigma, sigma / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}, **rest)


@torch.no_grad()
def asked(pipe, text="", cfg=3.0, batch=2, sigma=SIGMA):
    """The prediction of two prompts against one."""
    P, N = conds(pipe, batch)
    return Guider(pipe.model, P, N, cfg, parse_mods(text))(noisy(pipe, batch), sigma, ctx_of(pipe, sigma))


def call_of(pipe, *roles):
    return Call(pipe.model.module, SIGMA, roles, ctx_of(pipe))


def inputs(pipe):
    """(x, t, conditioning) of a plain call of the network."""
    return noisy(pipe), torch.full((2,), 0.5), conds(pipe)[0]


@torch.no_grad()
def with_patch(pipe, patch, sigma=SIGMA):
    """The positive prompt's clean latent under a patch."""
    P, _ = conds(pipe)
    return pipe.model(noisy(pipe), sigma, [replace(P, role="positive")], ctx_of(pipe, sigma, patches=(patch,)))[0]


@pytest.fixture(scope="module")
def unpatched(loaded):
    """A family → the prediction without a patch, made once."""
    return cache(lambda name: asked(loaded(name)))


# seg acts where pag does, and slg_simple leaves out what slg does: once is enough, on joint and single blocks
REPEATED = {(family, name) for family in TRANSFORMERS if family != "flux dev" for name in ("seg", "slg_simple")}


@pytest.mark.parametrize(
    "family_name, name",
    [
        pytest.param(family, name, marks=pytest.mark.slow if (family, name) in REPEATED else ())
        for family in TRANSFORMERS
        for name in LINES
    ],
)
def test_laws_of_patches_hold_on_transformers(family_name, name, loaded, unpatched):
    """It acts, costs what it says, is gone afterwards, and a batch is its samples."""
    pipe, text = loaded(family_name), LINES[name]
    was, plain, counted = fingerprint(pipe.model.module), unpatched(family_name), Counted(pipe)
    changed = asked(counted.pipe, text)
    assert not torch.allclose(changed.x0, plain.x0, atol=1e-5) and changed.x0.isfinite().all()
    assert counted.rows == 4 + 2 * MODS[name].evals
    assert fingerprint(pipe.model.module) == was and torch.equal(asked(pipe).x0, plain.x0)
    assert_close(changed.x0[:1], asked(pipe, text, batch=1).x0, atol=2e-5, rtol=1e-4)


def test_pag_of_sd3_is_diffusers_own_processor(small):
    """W is what diffusers' PAG pipelines make of a network: masked between the image's tokens alone."""
    from diffusers import SD3Transformer2DModel
    from diffusers.models.attention_processor import PAGJointAttnProcessor2_0

    module = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=16, caption_projection_dim=32, pooled_projection_dim=8,
    )  # fmt: skip
    small.randomise(module)
    x, text, pooled, t = torch.randn(2, 4, 8, 6), torch.randn(2, 5, 16), torch.randn(2, 8), torch.full((2,), 500.0)

    def network(x, t, cond):
        n = len(x) // 2
        return module(x, text.repeat(n, 1, 1), pooled.repeat(n, 1), t).sample

    patch = identity_attention(network, Call(module, SIGMA, (), Ctx(Span(SIGMA, SIGMA, Flow()), {})), layers="1")
    patched = patch(x, t, Cond(text))
    module.transformer_blocks[1].attn.processor = PAGJointAttnProcessor2_0()
    _, want = network(torch.cat([x, x]), torch.cat([t, t]), Cond(text)).chunk(2)
    assert_close(patched, want, atol=1e-5, rtol=0)


def test_pag_of_flux_is_its_attention_under_a_mask(loaded, family):
    """diffusers hands a mask to all blocks: text in front, latents packed."""
    from test_transformer_families import theirs

    pipe, other = loaded("flux dev"), family("flux dev")[1]
    (x, _, cond), n = inputs(pipe), 4 * 6
    length = cond.embeds.shape[1] + n
    mask = torch.ones(length, length, dtype=torch.bool)
    mask[-n:, -n:] = torch.eye(n, dtype=torch.bool)
    forward = other.transformer.forward
    other.transformer.forward = partial(forward, joint_attention_kwargs={"attention_mask": mask[None, None]})
    try:
        want = theirs(other, x, float(SIGMA), cond)
    finally:
        del other.transformer.forward
    t = pipe.model.sampling.levels.timestep(SIGMA).float().expand(2)
    got = identity_attention(pipe.model.network, call_of(pipe), layers="0, 1")(x, t, cond)
    assert_close(got, want, atol=1e-5, rtol=0)
    assert not torch.allclose(got, pipe.model.network(x, t, cond), atol=1e-3)


def attention_of(pipe, name, number):
    """(the attention of a block, what it is called with in a plain call, where the image's tokens are in its rows)"""
    attention = getattr(blocks(pipe.model.module)[number], "attn", None) or blocks(pipe.model.module)[number].attn1
    seen_ = []
    handle = attention.register_forward_pre_hook(lambda m, a, k: seen_.append((a, k)), with_kwargs=True)
    x, t, cond = inputs(pipe)
    pipe.model.network(x, t, cond)
    handle.remove()
    text = cond.embeds.shape[1]
    n = 24 * (2 if x.ndim == 5 else 1)  # 5 frames of a video are 2 of the latent
    starts = {"sd3": 0, "wan": 0, "flux dev": text, "auraflow": text + 8}  # AuraFlow has 8 registers
    mask = cond.extra.get("encoder_attention_mask")
    first = [starts[name]] * 2 if mask is None else [int(row.sum()) for row in mask]
    return attention, seen_[0], [slice(i, i + n) for i in first]


def joined(output, image_first):
    """What attention gives of all tokens, in the order in which they attend."""
    if not isinstance(output, tuple):
        return output
    return torch.cat(output if image_first else output[::-1], dim=1)


CASES = [("sd3", 0), ("flux dev", 0), ("flux dev", 1), ("auraflow", 0), ("auraflow", 1), ("lumina2", 1), ("wan", 1)]


@pytest.fixture(params=CASES, ids=str)
def attended(request, loaded):
    """A block's attention under a patch: (run(patch) → output in order, its inputs, places of the image)."""
    name, number = request.param
    pipe = loaded(name)
    attention, (args, kwargs), places = attention_of(pipe, name, number)
    x, t, cond = inputs(pipe)
    own = "encoder_hidden_states" in kwargs and kwargs["encoder_hidden_states"] is not None
    streams = [(args or [kwargs["hidden_states"]])[0]] + ([kwargs["encoder_hidden_states"]] if own else [])
    same = own and streams[1] is streams[0]  # Lumina's attention is told one sequence twice
    streams = [s.detach().clone().requires_grad_() for s in streams[: 1 if same else 2]]

    def run(patch):
        def alone(x, t, cond):
            if args:
                return attention(streams[0], *args[1:], **kwargs)
            given = {"hidden_states": streams[0]} | ({"encoder_hidden_states": streams[-1]} if own else {})
            return joined(attention(**{**kwargs, **given}), name == "sd3")

        return patch(alone, call_of(pipe), layers=str(number))(x, t, cond)

    return run, streams, places, name == "sd3"


def test_tokens_of_the_image_see_themselves_and_the_text(attended):
    run, streams, places, image_first = attended
    order = streams if image_first else streams[::-1]
    out = run(identity_attention)
    plain = run(lambda network, call, layers: network)
    for row, here in enumerate(places):
        length = out.shape[1]
        is_image = torch.zeros(length, dtype=torch.bool)
        is_image[here] = True
        for i in (here.start, here.start + 7, here.stop - 1):
            grads = torch.autograd.grad(out[row, i].sum(), order, retain_graph=True)
            seen_by_i = torch.cat([g[row].abs().amax(1) for g in grads]) > 0
            assert seen_by_i[i] and not (seen_by_i & is_image)[torch.arange(length) != i].any()
            assert (seen_by_i & ~is_image).sum() >= min(here.start or length - here.stop, 4)
        assert_close(out[row][: here.start], plain[row][: here.start])
        assert not torch.allclose(out[row][here], plain[row][here])


def test_one_query_for_all_gives_one_answer_for_all(attended):
    """With queries that are their mean, the tokens of a frame get the same, and the text what it got."""
    run, _, places, _ = attended
    out = run(partial(blurred_attention, sigma=10000.0))
    plain = run(lambda network, call, layers: network)
    for row, here in enumerate(places):
        frames = out[row, here].unflatten(0, (-1, 24))
        assert_close(frames, frames[:, :1].expand_as(frames), atol=1e-4, rtol=1e-3)
        assert not torch.allclose(plain[row, here], out[row, here], atol=1e-3)
        assert_close(out[row][: here.start], plain[row][: here.start])
        assert_close(out[row][here.stop :], plain[row][here.stop :])


@pytest.mark.parametrize("sigma", [0.8, 10000.0])
def test_seg_blurs_what_the_query_layer_gives(sigma, loaded, monkeypatch):
    """By weights of each pair of tokens, in the middle of a UNet."""
    pipe = loaded("sdxl")
    got = with_patch(pipe, partial(blurred_attention, sigma=sigma))
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    apart = (y.flatten()[:, None] - y.flatten()) ** 2 + (x.flatten()[:, None] - x.flatten()) ** 2
    weights = torch.exp(-apart / (2 * sigma**2))
    weights = weights / weights.sum(1, keepdim=True)
    handles = [
        block.attn1.to_q.register_forward_hook(lambda module, args, q: weights @ q)
        for block in blocks(pipe.model.module)
    ]
    P, _ = conds(pipe)
    with torch.no_grad():
        want = pipe.model(noisy(pipe), SIGMA, [P], ctx_of(pipe))[0]
    for handle in handles:
        handle.remove()
    assert_close(got, want, atol=1e-5, rtol=0)
    assert not torch.allclose(got, with_patch(pipe, partial(blurred_attention, sigma=0.0)), atol=1e-4)


def test_blurring_goes_from_nothing_to_the_mean():
    z = torch.randn(2, 3, 5, 7, 4)
    assert torch.equal(blurred(z, 0.0), z)
    mean = z.mean((-3, -2), keepdim=True)
    assert_close(blurred(z, 10000.0), mean.expand_as(z), atol=1e-5, rtol=0)
    spread = [float((blurred(z, sigma) - mean).norm()) for sigma in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("n, sides, want", [(64, (64, 64), (8, 8)), (96, (64, 96), (8, 12)), (88, (60, 84), (8, 11))])
def test_the_grid_of_a_level_is_the_latents_shape(n, sides, want):
    assert nearest_grid(n, sides) == want


@pytest.mark.parametrize("name", ["pag", "seg", "hypertile(max_depth=3, tile_size=32)+pag"])
def test_attention_that_is_worked_out_otherwise_is_refused_not_left_alone(name, loaded):
    """xformers', sliced and older processors do not call torch's function: nothing can take its place."""
    from diffusers.models.attention_processor import AttnProcessor

    pipe = loaded("sd1")
    assert asked(pipe, "pag").x0.isfinite().all()
    own = pipe.model.module.attn_processors
    pipe.model.module.set_attn_processor(AttnProcessor())
    try:
        with pytest.raises(ValueError, match="AttnProcessor does not attend by torch's scaled_dot_product_attention"):
            asked(pipe, name)
    finally:
        pipe.model.module.set_attn_processor(own)
