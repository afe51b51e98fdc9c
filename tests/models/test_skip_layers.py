"""Skip-layer guidance on small transformers of diffusers: a skipped block is one that is not there."""

from functools import partial

import pytest
import torch
from test_patch_laws import Counted
from test_self_perturbation import SIGMA, asked, call_of, conds, ctx_of, inputs, noisy, with_patch
from torch.testing import assert_close

from sigmafield.guidance.patches.skip_layers import skipped
from sigmafield.recipes.mods import parse_mods

SKIPS = [
    ("sd3", "transformer_blocks", "0"), ("sd3", "transformer_blocks", "1"), ("flux dev", "transformer_blocks", "0"),
    ("flux dev", "single_transformer_blocks", "0"), ("auraflow", "joint_transformer_blocks", "0"),
    ("auraflow", "single_transformer_blocks", "0"), ("lumina2", "layers", "0"), ("wan", "blocks", "1"),
    ("wan", "blocks", "0, 1, 7"),
]  # fmt: skip


@pytest.mark.parametrize("name, blocks_, numbers", SKIPS)
def test_a_skipped_block_is_a_deleted_one(name, blocks_, numbers, loaded):
    pipe, (x, t, cond) = loaded(name), inputs(loaded(name))
    kind = "single" if blocks_ in ("single_transformer_blocks", "layers") else "double"
    skip = {"double": "", "single": "", kind: numbers}
    got = skipped(pipe.model.network, call_of(pipe), **skip)(x, t, cond)
    plain = pipe.model.network(x, t, cond)
    whole = getattr(pipe.model.module, blocks_)
    setattr(pipe.model.module, blocks_, torch.nn.ModuleList(b for i, b in enumerate(whole) if str(i) not in numbers))
    try:
        want = pipe.model.network(x, t, cond)
    finally:
        setattr(pipe.model.module, blocks_, whole)
    assert_close(got, want, atol=1e-6, rtol=0)
    assert not torch.allclose(got, plain, atol=1e-3)


def test_slg_is_its_sum_with_the_deviation_that_it_is_told(loaded):
    pipe = loaded("sd3")
    plain, blocks_ = asked(pipe), "double='1', start_percent=0, end_percent=1"
    W = with_patch(pipe, partial(skipped, double="1", single=""))
    D = plain.x0 + 2 * (plain.cond - W)
    assert_close(asked(pipe, f"slg({blocks_}, scale=2)").x0, D, atol=1e-5, rtol=0)
    for over, axes in {"batch": (0, 1, 2, 3), "sample": (1, 2, 3)}.items():
        ratio = plain.cond.std(axes, keepdim=True) / D.std(axes, keepdim=True)
        got = asked(pipe, f"slg({blocks_}, scale=2, rescaling_scale=0.6, over={over})").x0
        assert_close(got, D * (0.6 * ratio + 0.4), atol=1e-5, rtol=0)


def test_outside_of_its_window_slg_costs_nothing(loaded):
    pipe = loaded("sd3")
    for sigma, calls in ((0.9999, 1), (0.97, 2), (0.5, 1)):
        counted, level = Counted(pipe), torch.tensor(sigma, dtype=torch.float64)
        D = asked(counted.pipe, "slg(double='1')", sigma=level).x0
        assert counted.calls == calls
        assert torch.equal(D, asked(pipe, sigma=level).x0) == (calls == 1)
    for text in ("slg(double='', single='', start_percent=0, end_percent=1)", "slg(double=1, scale=0)"):
        counted = Counted(pipe)
        if "=1," in text:
            with pytest.raises(ValueError, match="slg needs double to be text; got 1"):
                asked(counted.pipe, text)
        else:
            assert torch.equal(asked(counted.pipe, text).x0, asked(pipe).x0) and counted.calls == 1


def test_slg_simple_takes_the_blocks_from_the_negative_prompt_alone(loaded):
    pipe, text = loaded("flux dev"), "slg_simple(single='0', end_percent=0.8)"
    plain = asked(pipe)
    _, N = conds(pipe)
    ctx = ctx_of(pipe, patches=(partial(skipped, double="", single="0"),))
    with torch.no_grad():
        U = pipe.model(noisy(pipe), SIGMA, [N], ctx)[0]
    assert_close(asked(pipe, text).x0, U + 3 * (plain.cond - U), atol=1e-5, rtol=0)
    late = torch.tensor(0.2, dtype=torch.float64)
    assert_close(asked(pipe, text, sigma=late).x0, asked(pipe, sigma=late).x0, atol=1e-5, rtol=0)
    both = torch.tensor([0.7, 0.2], dtype=torch.float64).reshape(2, 1, 1, 1)
    mixed = asked(pipe, text, sigma=both).x0
    assert_close(mixed[:1], asked(pipe, text).x0[:1], atol=1e-5, rtol=0)
    assert_close(mixed[1:], asked(pipe, sigma=late).x0[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("sd1", "slg", "UNet2DConditionModel is not one of the transformers AuraFlowTransformer2DModel, "),
        ("sd3", "slg", r"SD3Transformer2DModel has 2 double and 0 single blocks, from 0 on; got double = '7, 8, 9'"),
        ("wan", "slg_simple(double='5')", "WanTransformer3DModel has 2 double and 0 single blocks"),
        ("sd3", "pag(layers='7')", r"SD3Transformer2DModel has blocks 0 to 1 to choose from; got layers = '7'"),
        ("sdxl", "seg(layers='0, 9')", r"UNet2DConditionModel has blocks 0 to 1 to choose from; got layers = '0, 9'"),
        ("sd3", "pag(layers=all)", "layers must be numbers of blocks, such as '7, 8, 9'; got 'all'"),
        ("sd3", "sag", "SD3Transformer2DModel is not a UNet with attention in its middle"),
    ],
)
def test_a_mod_without_its_blocks_is_refused_at_once(name, text, message, loaded):
    with pytest.raises(ValueError, match=message):
        parse_mods(text).check(loaded(name).model.module)
