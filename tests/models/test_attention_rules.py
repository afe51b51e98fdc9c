"""Guidance by attention itself, on small networks of diffusers: what it gives (NAG), and what it looks at (SAG)."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_self_perturbation import SIGMA, asked, conds, ctx_of, noisy, with_patch
from torch.testing import assert_close

from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches.normalized_attention import nag
from sigmafield.guidance.patches.self_attention import seen
from sigmafield.recipes.mods import parse_mods
from sigmafield.spatial.tiled_model import Tiled, grid_cover


class Normalizing:
    """diffusers' processor of an attention, with NAG's rule written out behind it. Rows: negative, then positive."""

    def __init__(self, inner, text):
        self.inner, self.text = inner, text

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        out = self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        image, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
        skip = self.text if rest is None and image.shape[1] > self.text else 0
        low, high = (half.clone() for half in image.chunk(2))
        for row in range(len(low)):
            for token in range(skip, low.shape[1]):
                negative, positive = low[row, token].clone(), high[row, token].clone()
                g = 4 * positive - 3 * negative
                ratio = g.abs().sum() / positive.abs().sum()
                z = 0.7 * g * min(float(ratio), 1.2) / ratio + 0.3 * positive
                high[row, token] = z
                if rest or skip:
                    low[row, token] = z
        image = torch.cat([low, high])
        return image if rest is None else (image, *rest)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "sd3")]  # layers of sd1's and flux' kinds


@pytest.mark.parametrize("name", ["sd1", *SLOW, "flux dev", "wan"])
def test_nag_is_its_rule_behind_every_self_attention(name, loaded, monkeypatch):
    pipe = loaded(name)
    P, N = conds(pipe)
    x, joint = noisy(pipe, 4), name in ("sd3", "flux dev")
    x[2:] = x[:2]
    ctx = ctx_of(pipe, patches=(partial(nag, scale=4.0, alpha=0.7, tau=1.2),))
    each = [replace(N, role="negative"), replace(P, role="positive")]
    with torch.no_grad():
        got = pipe.model(x, SIGMA, each, ctx)
        plain = pipe.model(x, SIGMA, each, ctx_of(pipe))
        for key, part in pipe.model.module.named_modules():
            second = key.endswith("attn2") and name != "sd3"  # elsewhere these look at the text
            if hasattr(part, "processor") and key.split(".")[-1] in ("attn", "attn1", "attn2") and not second:
                text = P.embeds.shape[1] if joint else 0
                monkeypatch.setattr(part, "processor", Normalizing(part.processor, text))
        want = pipe.model(x, SIGMA, each, ctx_of(pipe))
    for a, b in zip(got, want):
        assert_close(a, b, atol=2e-5, rtol=0)
    assert torch.equal(got[0], plain[0]) != joint and not torch.allclose(got[1], plain[1], atol=1e-4)


def test_nag_says_where_the_prompts_do_not_meet(loaded):
    pipe = loaded("sd1")
    with pytest.raises(ValueError, match="nag needs the positive and the negative prompt in one network call: leave"):
        asked(replace(pipe, model=replace(pipe.model, max_rows=2)), "nag")
    P, N = conds(pipe)
    with pytest.raises(
        ValueError, match="nag needs as many rows of the positive prompt as of the negative .*; got 4 and"
    ):
        Guider(pipe.model, [P, P], N, 3.0, parse_mods("nag"))(noisy(pipe), SIGMA, ctx_of(pipe))
    with pytest.raises(ValueError, match="need a negative prompt"):
        Guider(pipe.model, P, None, 3.0, parse_mods("nag"))
    asked(pipe, "pag+nag")  # PAG's own evaluation is of the positive prompt alone, and no reason to complain


def by_hand(pipe, scale, blur):
    """SAG at cfg 3, from the module's own layers."""
    (P, N), x, unet = conds(pipe), noisy(pipe), pipe.model.module
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    given = []
    handle = attention.register_forward_pre_hook(lambda m, a, k: given.append((*a, *k.values())[0]), with_kwargs=True)
    U = pipe.model(x, SIGMA, [N], ctx_of(pipe))[0]
    C = pipe.model(x, SIGMA, [P], ctx_of(pipe))[0]
    handle.remove()
    q, k = (
        layer(given[0]).unflatten(2, (attention.heads, -1)).transpose(1, 2)
        for layer in (attention.to_q, attention.to_k)
    )
    P_ = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
    mass = P_.mean(1).sum(1)
    mask = F.interpolate((mass > 1).float().reshape(2, 1, 4, 6), (8, 12), mode="nearest")
    line = torch.arange(-4.0, 5)
    kernel = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * blur**2))
    kernel = (kernel / kernel.sum()).expand(4, 1, 9, 9)
    soft = F.conv2d(F.pad(U, (4, 4, 4, 4), mode="reflect"), kernel, groups=4) * mask + U * (1 - mask)
    A = pipe.model(soft + x - U, SIGMA, [N], ctx_of(pipe))[0]
    assert 0 < mask.mean() < 1
    return U + 3 * (C - U) + scale * (soft - A)


@torch.no_grad()
def test_sag_is_its_rule_from_the_negative_prompts_attention(loaded):
    pipe = loaded("sd1")
    want = by_hand(pipe, 0.8, 1.5)
    assert_close(asked(pipe, "sag(scale=0.8, blur_sigma=1.5)").x0, want, atol=2e-5, rtol=0)
    one_by_one = replace(pipe, model=replace(pipe.model, max_rows=1))
    assert_close(asked(one_by_one, "sag(scale=0.8, blur_sigma=1.5)").x0, want, atol=2e-5, rtol=0)
    unblurred = asked(pipe, "sag(blur_sigma=0)")
    assert_close(unblurred.x0, asked(pipe).x0, atol=1e-5, rtol=0)


def test_sag_sees_the_ordinary_evaluation_alone(loaded):
    """Combined with PAG, neither sees the other, and a sampler's second evaluation does not see the first."""
    pipe = loaded("sd1")
    D = {text: asked(pipe, text).x0 for text in ("", "pag", "sag", "pag+sag", "sag+pag")}
    for text in ("pag+sag", "sag+pag"):
        assert_close(D[text] - D[""], (D["pag"] - D[""]) + (D["sag"] - D[""]), atol=2e-5, rtol=0)
    P, N = conds(pipe)
    guider, ctx = Guider(pipe.model, P, N, 3.0, parse_mods("sag")), ctx_of(pipe)
    assert torch.equal(*(guider(noisy(pipe), SIGMA, ctx).x0 for _ in range(2)))


def test_sag_refuses_maps_of_parts(loaded):
    pipe = loaded("sd1")
    P, N = conds(pipe)
    guider = Guider(Tiled(pipe.model, grid_cover((8, 8), 4)), P, N, 3.0, parse_mods("sag"))
    with pytest.raises(ValueError, match="sag needs the negative prompt's attention over the whole image"):
        guider(noisy(pipe), SIGMA, ctx_of(pipe))


def test_noting_attention_changes_nothing(loaded):
    pipe = loaded("sdxl")
    assert torch.equal(with_patch(pipe, seen), with_patch(pipe, lambda network, call: network))


@torch.no_grad()
@pytest.mark.parametrize("text", ["pag", "seg", "nag"])
def test_tiles_are_each_guided_alone(text, loaded):
    """A tile is a call of its own shape; several that share one are guided as they are one by one."""
    pipe = loaded("sd1")
    P, N = conds(pipe)
    together, alone = (
        Guider(Tiled(pipe.model, grid_cover((8, 6)), batch=n), P, N, 1.0, parse_mods(text))(
            noisy(pipe), SIGMA, ctx_of(pipe)
        ).x0
        for n in (4, 1)
    )
    assert_close(together, alone, atol=2e-5, rtol=0)
    left = Guider(pipe.model, P, N, 1.0, parse_mods(text))(noisy(pipe)[..., :6], SIGMA, ctx_of(pipe)).x0
    assert_close(together[..., :6], left, atol=2e-5, rtol=0)
