"""FreeU, deep shrink and multiplied attention on real UNets of diffusers, against forward passes written by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sigmafield.core.conditioning import Cond, Control
from sigmafield.core.process import VE, Span
from sigmafield.core.protocols import Call, Ctx
from sigmafield.core.registry import format_specs, parse_specs
from sigmafield.guidance.hooks import with_patches
from sigmafield.guidance.patches import freeu, module_hooks
from sigmafield.guidance.patches.self_attention import seen
from sigmafield.guidance.patches.unet_blocks import attentions, inputs, meetings, outputs
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.recipes.mods import MODS, parse_mods
from small_network import shipped_model, small_model

SD_CLOCK = discrete(betas()).sigma_at

diffusers = pytest.importorskip("diffusers")

LEVELS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
T = torch.tensor([300.0, 700.0])


@pytest.fixture(scope="module")
def unet(small):
    """Three levels of 16, 32 and 64 channels: input blocks 0 … 8."""
    ups = tuple(name.replace("Down", "Up") for name in LEVELS[::-1])
    return small.unet(
        block_out_channels=(16, 32, 64), down_block_types=LEVELS, up_block_types=ups, layers_per_block=2,
        transformer_layers_per_block=(1, 1, 2),
    )  # fmt: skip


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network_of(unet):
    return lambda x, t, cond: unet(x, t, encoder_hidden_states=cond.embeds).sample


def model_of(unet):
    """A diffusion model on a UNet."""
    return replace(small_model().model, forward=lambda module, x, t, cond: network_of(module)(x, t, cond), module=unet)


def patched(name, unet, x, text, sigma=9.0, cond=None, **params):
    """The network's answer with a mod of it, at a noise level."""
    sigma = torch.tensor(sigma, dtype=torch.float64)
    sigma = sigma.reshape(-1, 1, 1, 1) if sigma.ndim else sigma
    call = Call(unet, sigma, ("positive",) * len(x), Ctx(Span(sigma, sigma / 2, VE(), clock=SD_CLOCK), {}))
    return MODS[name](**params)(network_of(unet), call)(x, T, cond or Cond(text))


def in_line(line, unet, x, text, sigma=9.0):
    """The network's answer with the mods of a line, as a model patches it."""
    level = torch.tensor(sigma, dtype=torch.float64)
    model = model_of(unet)
    ctx = Ctx(Span(level, level / 2, VE(), clock=SD_CLOCK), {}, patches=parse_mods(line).network)
    with model.patched(level, ("positive",) * len(x), ctx) as network:
        return network(x, T.to(x.device), Cond(text))


def by_hand(unet, x, text, meet=lambda h, skip: (h, skip), pushed=lambda n, h: h, after=lambda n, h: h, grow=None):
    """The UNet's forward pass in the original's blocks; pushed: the skip of block n, after: what goes on from it."""
    time = unet.time_embedding(unet.time_proj(T))

    def pair(level, j, h):
        h = level.resnets[j](h, time)
        return level.attentions[j](h, encoder_hidden_states=text).sample if hasattr(level, "attentions") else h

    skips = [pushed(0, unet.conv_in(x))]
    h = after(0, skips[0])
    for level in unet.down_blocks:
        for step in [*(partial(pair, level, j) for j in range(2)), *(level.downsamplers or [])]:
            skips.append(pushed(len(skips), step(h)))
            h = after(len(skips) - 1, skips[-1])
    middle = unet.mid_block
    h = middle.attentions[0](middle.resnets[0](h, time), encoder_hidden_states=text).sample
    h = middle.resnets[1](h, time)
    for level in unet.up_blocks:
        for j in range(3):
            h, skip = meet(h, skips.pop())
            h = h if h.shape[2:] == skip.shape[2:] else F.interpolate(h, skip.shape[2:], mode=grow)
            h = pair(level, j, torch.cat([h, skip], 1))
        for up in level.upsamplers or []:
            h = up.conv(F.interpolate(h, skips[-1].shape[2:], mode="nearest"))
    return unet.conv_out(F.silu(unet.conv_norm_out(h)))


@pytest.fixture(scope="module")
def plain_input(unet):
    """x of 16 by 24, which halves evenly, and a text; the network's own answer is that of the forward pass by hand."""
    x, text = draw(2, 4, 16, 24), draw(2, 5, 32, seed=1)
    assert_close(network_of(unet)(x, T, Cond(text)), by_hand(unet, x, text), atol=1e-5, rtol=0)
    return x, text


@pytest.mark.parametrize("name", ["freeu", "freeu_v2"])
def test_freeu_is_its_rule_where_h_meets_a_skip(name, unet, plain_input):
    factors = {"b1": 1.5, "b2": 1.2, "s1": 0.7, "s2": 0.3}
    meet = partial(getattr(freeu, f"{name}_features"), model_channels=16, **factors)
    want = by_hand(unet, *plain_input, meet=meet)
    assert_close(patched(name, unet, *plain_input, **factors), want, atol=1e-5, rtol=0)
    for key in factors:  # each of the four acts
        assert not torch.allclose(patched(name, unet, *plain_input, **{**factors, key: 1.0}), want, atol=1e-4)


MEETING = {
    "freeu": partial(freeu.freeu_features, model_channels=16, b1=1.5, b2=1.2, s1=0.7, s2=0.3),
    "freeu_v2": partial(freeu.freeu_v2_features, model_channels=16, b1=1.6, b2=0.7, s1=1.2, s2=0.5),
    "deep_shrink": lambda h, skip: (F.interpolate(h, skip.shape[2:], mode="bilinear"), skip),
}
LINES = {
    "freeu": "freeu(b1=1.5, b2=1.2, s1=0.7, s2=0.3)",
    "freeu_v2": "freeu_v2(b1=1.6, b2=0.7, s1=1.2, s2=0.5)",
    "deep_shrink": "deep_shrink(block=3, downscale_method=bilinear, upscale_method=bilinear)",
}


ORDERS = [*permutations(MEETING)]


@pytest.mark.parametrize(  # every two are in either order in the three orders that are each other's rotations
    "names",
    [
        *(order for order in ORDERS if order in [ORDERS[0][i:] + ORDERS[0][:i] for i in range(3)]),
        *(pytest.param(two, marks=pytest.mark.slow) for two in permutations(MEETING, 2)),
    ],
    ids="+".join,
)
def test_where_h_meets_a_skip_the_mods_of_a_line_act_in_its_order(names, unet, plain_input):
    """The first is given what the network has there, the next one what it makes of it: deep_shrink's growth too."""

    def meet(h, skip):
        for name in names:
            h, skip = MEETING[name](h, skip)
        return h, skip

    def shrink(n, h):
        return F.interpolate(h, [side // 2 for side in h.shape[2:]], mode="bilinear") if n == 3 else h

    own = {"after": shrink} if "deep_shrink" in names else {}
    want = by_hand(unet, *plain_input, meet=meet, **own)
    assert_close(in_line("+".join(LINES[name] for name in names), unet, *plain_input), want, atol=2e-5, rtol=0)
    if "freeu_v2" in names:  # the others commute: a factor, and a linear interpolation
        reverse = in_line("+".join(LINES[name] for name in names[::-1]), unet, *plain_input)
        assert not torch.allclose(reverse, want, atol=1e-3)


def test_the_first_patch_acts_first_at_every_kind_of_point(unet, plain_input):
    """Before and after a module, inside of its attention, and for each patch that a mod adds for its own evaluation."""
    log: list[tuple[str, str]] = []

    def noting(name):
        def hook(point, *given):
            log.append((point, name))

        def attend(q, k, v, attention):
            log.append(("inside", name))
            return attention(q, k, v)

        def patch(network, call):
            _, module = attentions(call.module, "attn1")[0]
            changes = [
                partial(module_hooks.before, module, lambda part, args, kwargs: hook("before")),
                partial(module_hooks.after, module, lambda part, args, kwargs, output: hook("after")),
                partial(module_hooks.inside, module, attend),
            ]
            return module_hooks.during(network, changes)

        return patch

    level = torch.tensor(9.0, dtype=torch.float64)
    ctx = Ctx(Span(level, level / 2, VE(), clock=SD_CLOCK), {}, patches=(noting("first"), noting("second")))
    ctx = with_patches(ctx, noting("of a further evaluation"))
    model = model_of(unet)
    with model.patched(level, ("positive",) * 2, ctx) as network:
        got = network(plain_input[0], T, Cond(plain_input[1]))
    assert torch.equal(got, network_of(unet)(plain_input[0], T, Cond(plain_input[1])))
    order = ["of a further evaluation", "first", "second"]
    assert log == [(point, name) for point in ("before", "inside", "after") for name in order]


def test_identity_attention_is_that_of_a_token_whatever_tiles_the_line_has(unet, plain_input):
    """pag's disturbed evaluation is the same with hypertile in the line, where both change the same layers."""
    level = torch.tensor(9.0, dtype=torch.float64)
    model = model_of(unet)

    def answer(line, *further):
        ctx = Ctx(Span(level, level / 2, VE(), clock=SD_CLOCK), {}, patches=parse_mods(line).network)
        with model.patched(level, ("positive",) * 2, with_patches(ctx, *further)) as network:
            return network(plain_input[0], T, Cond(plain_input[1]))

    def disturbed(network, call):
        modules = [module for _, module in attentions(call.module, "attn1")]
        return module_hooks.during(
            network, [partial(module_hooks.inside, module, lambda q, k, v, _: v) for module in modules]
        )

    tiled = "hypertile(tile_size=32, max_depth=1)"
    assert not torch.allclose(answer(tiled), answer(""), atol=1e-4)
    assert torch.equal(answer(tiled, disturbed), answer("", disturbed))


@pytest.mark.parametrize("line", ["hypertile+sag", "sag+hypertile"])
def test_sag_looks_at_the_whole_map_wherever_it_stands_in_the_line(line):
    """What it notes is of the queries and keys that hypertile has not cut yet."""
    assert parse_mods(line).network[0] is seen and len(parse_mods(line).network) == 2


def test_a_hyphen_needs_no_quotes():
    line = "deep_shrink(upscale_method=nearest-exact, end_percent=0.5)"
    found = parse_specs(line, "guidance", "")
    assert found[0].params == {"upscale_method": "nearest-exact", "end_percent": 0.5}
    parse_mods(line)
    assert parse_specs(format_specs(found), "guidance", "") == found


SHRINKING = [(1, True), (3, True), (3, False), (4, False), (6, True), (8, True)]


@pytest.mark.parametrize(  # each block by default, and each factor and size; the other combinations take the same code
    "block, after_skip, factor, size",
    [
        pytest.param(*place, factor, size, marks=[] if usual or place == (3, True) else pytest.mark.slow)
        for place in SHRINKING
        for factor in (2.0, 1.5, 0.75)
        for size in ((16, 24), (15, 18))
        for usual in [(factor, size) == (1.5, (15, 18))]
    ],
)
def test_deep_shrink_is_its_rule(block, after_skip, factor, size, unet):
    x, text = draw(2, 4, *size, seed=2), draw(2, 5, 32, seed=1)

    def shrink(n, h):
        to = [round(side * (1 / factor)) for side in h.shape[2:]]
        return F.interpolate(h, to, mode="bilinear") if n == block else h

    want = by_hand(unet, x, text, grow="bicubic", **{"after" if after_skip else "pushed": shrink})
    got = patched(
        "deep_shrink", unet, x, text, block=block, after_skip=after_skip, downscale_factor=factor,
        downscale_method="bilinear",
    )  # fmt: skip
    assert_close(got, want, atol=2e-5, rtol=0)


def test_deep_shrink_keeps_to_its_window(unet, plain_input):
    plain, sigma_at = network_of(unet)(plain_input[0], T, Cond(plain_input[1])), SD_CLOCK
    shrunk = patched("deep_shrink", unet, *plain_input, sigma=9.0)
    for percent, acts in {0.001: False, 0.21: True, 0.39: True, 0.41: False, 0.999: False}.items():
        got = patched("deep_shrink", unet, *plain_input, sigma=sigma_at(percent), start_percent=0.2, end_percent=0.4)
        assert torch.equal(got, shrunk if acts else plain)
    assert torch.equal(patched("deep_shrink", unet, *plain_input, sigma=[9.0, 8.0]), shrunk)
    assert torch.equal(patched("deep_shrink", unet, *plain_input, sigma=[0.2, 0.1]), plain)
    with pytest.raises(ValueError, match="window ends between the noise levels of the samples"):
        patched("deep_shrink", unet, *plain_input, sigma=[9.0, 0.1])


def test_deep_shrink_refuses_what_it_cannot_do(unet, plain_input):
    for text in ("deep_shrink(block=9)", "deep_shrink(block=32)"):
        with pytest.raises(ValueError, match=r"1 ≤ block ≤ 8 here; got"):
            parse_mods(text).check(unet)
    parse_mods("deep_shrink(block=8)").check(unet)
    with pytest.raises(ValueError, match=r"leaves nothing of a map of \(4, 6\)"):
        patched("deep_shrink", unet, *plain_input, block=6, downscale_factor=9.0)

    class Side:
        factor = 8

        def __call__(self, x, t, cond, hint, strength):
            raise AssertionError

    control = Control(Side(), torch.zeros(1, 3, 8, 8))
    steered = Cond(plain_input[1], controls=(control,))
    with pytest.raises(ValueError, match="give the controls another window"):
        patched("deep_shrink", unet, *plain_input, cond=steered)


SD1, XL = (320, 640, 1280, 1280), (320, 640, 1280)


@pytest.mark.parametrize(
    "channels, downs, first, second",
    [(SD1, [3, 6, 9], range(7), range(7, 10)), (XL, [3, 6], range(4), range(4, 7))],
    ids=["SD1", "XL"],
)
def test_numbers_of_blocks_are_those_of_the_original(channels, downs, first, second):
    """Which blocks are downsamplers, and at which ones FreeU's two pairs of factors act."""
    n, own = len(channels), "CrossAttnDownBlock2D"
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=channels, down_block_types=("DownBlock2D",) + (own,) * (n - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (n - 1) + ("UpBlock2D",), cross_attention_dim=64,
        )  # fmt: skip
    blocks, ups, met = inputs(unet), outputs(unet), meetings(unet)
    assert len(blocks) == len(ups) == len(met) == 3 * n
    assert [k for k, block in enumerate(blocks) if "Downsample" in type(block.first).__name__] == downs
    assert blocks[4].first is unet.down_blocks[1].resnets[0] and blocks[4].last is unet.down_blocks[1].attentions[0]
    assert ups[2].last is unet.up_blocks[0].upsamplers[0] and ups[1].last is unet.up_blocks[0].attentions[1]
    assert [k for k, (_, wide) in enumerate(met) if wide == 1280] == list(first)
    assert [k for k, (_, wide) in enumerate(met) if wide == 640] == list(second)


@pytest.mark.parametrize("name, part", [("self", "attn1"), ("cross", "attn2")])
def test_attention_is_multiplied_as_if_its_weights_and_biases_were(name, part, unet, plain_input):
    factors, other = {"q": 1.5, "k": 0.7, "v": 2.0, "out": 0.3}, copy.deepcopy(unet)
    with torch.no_grad():
        for key, module in other.named_modules():
            where = key.partition(f"{part}.to_")[2]
            if where in ("q", "k", "v", "out.0"):
                for weights in module.parameters():
                    weights *= factors[where.removesuffix(".0")]
    got = patched(f"{name}_attention_multiply", unet, *plain_input, **factors)
    assert_close(got, network_of(other)(plain_input[0], T, Cond(plain_input[1])), atol=1e-5, rtol=0)
    assert not torch.allclose(got, network_of(unet)(plain_input[0], T, Cond(plain_input[1])), atol=1e-3)


def test_a_factor_of_queries_is_a_factor_of_attention_s_scale(unet, plain_input):
    def sharper(q, k, v, attention):
        return attention(q, k, v, scale=2 * q.shape[-1] ** -0.5)

    places = [partial(module_hooks.inside, module, sharper) for _, module in attentions(unet, "attn1")]
    want = module_hooks.during(network_of(unet), places)(plain_input[0], T, Cond(plain_input[1]))
    for key in ("q", "k"):
        assert_close(patched("self_attention_multiply", unet, *plain_input, **{key: 2.0}), want, atol=1e-5, rtol=0)


PATCHES = [
    "freeu", "freeu_v2", "deep_shrink", "deep_shrink(downscale_method=bislerp, after_skip=false)",
    "hypertile(tile_size=32, max_depth=1, keys=tile)", "tome(max_downsample=2)", "self_attention_multiply(q=2)",
    "cross_attention_multiply(out=0.5)",
]  # fmt: skip


TWINS = {"freeu", "deep_shrink", "cross_attention_multiply(out=0.5)"}
"""Of two patches that take the same code, one."""


@pytest.fixture(scope="module")
def away(unet):
    """The UNet on the meta device."""
    return copy.deepcopy(unet).to("meta")


@pytest.mark.parametrize(  # a line of all of them by default: a read of any one of them raises there, too
    "line",
    ["+".join(p for p in PATCHES if p != "deep_shrink"), *(pytest.param(p, marks=pytest.mark.slow) for p in PATCHES)],
)
def test_no_patch_reads_latents(line, away):
    """Reading a latent on the meta device raises."""
    x, text = torch.zeros(2, 4, 16, 24, device="meta"), torch.zeros(2, 5, 32, device="meta")
    assert in_line(line, away, x, text).shape == x.shape


@pytest.fixture(scope="module")
def short(unet):
    """The UNet in bfloat16."""
    return copy.deepcopy(unet).to(torch.bfloat16)


@pytest.mark.parametrize(  # of two that take the same code, and of the two sizes of deep_shrink's, one by default
    "line", [pytest.param(p, marks=pytest.mark.slow if p in TWINS else []) for p in PATCHES]
)
def test_half_precision_stays_near(line, unet, short, plain_input):
    """bfloat16 throughout, as networks on devices run."""
    sigma = torch.tensor(9.0, dtype=torch.float64)
    answers = []
    for net, dtype in ((unet, torch.float32), (short, torch.bfloat16)):
        call = Call(net, sigma, ("positive",) * 2, Ctx(Span(sigma, sigma / 2, VE(), clock=SD_CLOCK), {}))
        (patch,) = parse_mods(line).network
        answers.append(patch(network_of(net), call)(plain_input[0].to(dtype), T, Cond(plain_input[1].to(dtype))))
    assert answers[1].dtype == torch.bfloat16
    assert float((answers[1] - answers[0]).norm() / answers[0].norm()) < 0.1


@pytest.fixture(scope="module")
def shipped():
    """The shipped UNet here and in diffusers' class, with the same weights."""
    ours = shipped_model().model.module
    theirs = diffusers.UNet2DConditionModel.from_pretrained(files("sigmafield") / "data" / "tiny" / "unet").eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize(
    "line",
    [
        *("", "hypertile(tile_size=32, max_depth=2)", "tome(max_downsample=4)"),
        *(pytest.param(p, marks=pytest.mark.slow if p in TWINS else []) for p in PATCHES),
    ],
)
def test_the_shipped_unet_is_patched_as_diffusers_own_class_is(line, shipped):
    ours, theirs = shipped
    x, text, sigma = draw(2, 4, 32, 16), draw(2, 5, 160, seed=1), torch.tensor(9.0, dtype=torch.float64)
    answers = []
    for module, network in (
        (ours, lambda x, t, cond: ours(x, t, cond.embeds)),
        (theirs, network_of(theirs)),
    ):
        call = Call(module, sigma, ("positive",) * 2, Ctx(Span(sigma, sigma / 2, VE(), clock=SD_CLOCK), {}))
        for patch in parse_mods(line).network:
            network = patch(network, call)
        with torch.no_grad():
            answers.append(network(x, T, Cond(text)))
    assert_close(*answers, atol=1e-4, rtol=1e-4)
