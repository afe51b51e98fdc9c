"""IP-Adapters add what diffusers' networks with `load_ip_adapter` add, and change nothing else."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from ip_adapter_files import SEES, drawn, layers, plain, plus, save_encoder, widths_of, written
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

import sigmafield as sf
from sigmafield.cli.moved import with_moved
from sigmafield.cli.parse import READERS
from sigmafield.core.fitting import fit, transformed
from sigmafield.core.geometry import Box
from sigmafield.core.views import crop, samples
from sigmafield.models.ip_adapter import weights_of
from sigmafield.models.load_parts import load_ip_adapter
from sigmafield.models.vision import Seen

pytest.importorskip("diffusers")


def seen(images=1, tokens=7):
    """What an encoder sees: one vector per image, and tokens."""
    return Seen(drawn(images, tokens, SEES, seed=3), drawn(images, tokens, SEES, seed=4), drawn(images, SEES, seed=5))


def prompt_of(adapter, images=1, weight=0.8, **more):
    return sf.ImagePrompt(adapter, adapter.tokens(seen(images)), weights_of(weight, adapter.layers), **more)


@pytest.fixture
def unets(family, loaded, tmp_path, request):
    """Ours, its adapter, and diffusers' UNet with the same one."""
    name, kind = request.param
    pipe = family(name)[1]
    theirs = type(pipe)(**{**pipe.components, "unet": deepcopy(pipe.unet)})
    dim = theirs.unet.config.cross_attention_dim
    projection = {"plain": plain, "plus": plus}[kind](dim)
    path = written(tmp_path / "adapter.safetensors", projection, layers(widths_of(theirs.unet), dim))
    theirs.load_ip_adapter(str(tmp_path), subfolder=".", weight_name=path.name, image_encoder_folder=None)
    ours = loaded(name)
    return ours, load_ip_adapter(path, ours), theirs


def calls(ours, unet, prompt, embeds, masks=None):
    """What a call of ours gives with an image, and what diffusers' network gives."""
    x, t = drawn(1, 4, 8, 12, scale=1.0), torch.tensor([400.0])
    cond = ours.text.encode(["a red heart"], (16, 24))
    more = {} if masks is None else {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    want = unet(x, t, cond.embeds, added_cond_kwargs={**cond.extra, "image_embeds": [embeds]}, **more).sample
    return ours.model.network(x, t, fit(replace(cond, image_prompts=[prompt]), (8, 12))), want


@pytest.mark.parametrize("unets", [("sd1", "plain"), ("sd1", "plus"), ("sdxl", "plain")], indirect=True)
@torch.no_grad()
def test_unets_attend_as_those_of_diffusers(unets):
    """With equal weights, weights of each layer, masks, and several images."""
    ours, adapter, theirs = unets
    vector = adapter.whole
    one = seen().image_embeds[:, None] if vector else seen().penultimate_hidden_states[:, None]
    two = seen(2).image_embeds[None] if vector else seen(2).penultimate_hidden_states[None]
    theirs.set_ip_adapter_scale(0.8)
    got, want = calls(ours, theirs.unet, prompt_of(adapter), one)
    assert_close(got, want, atol=1e-5, rtol=1e-5)
    plainly = ours.model.network(
        drawn(1, 4, 8, 12, scale=1.0), torch.tensor([400.0]), ours.text.encode(["a red heart"], (16, 24))
    )
    assert (got - plainly).abs().max() > 0.01
    got, want = calls(ours, theirs.unet, prompt_of(adapter, 2), two)
    assert_close(got, want, atol=1e-5, rtol=1e-5)
    mask = (torch.arange(12) < 5).float().expand(1, 8, 12)
    got, want = calls(ours, theirs.unet, prompt_of(adapter, mask=mask), one, [mask[None]])
    assert_close(got, want, atol=1e-5, rtol=1e-5)
    theirs.set_ip_adapter_scale({"up": {"block_1": [0.3, 0.6]}})
    by_name = {"up_blocks.1.attentions.0": 0.3, "up_blocks.1.attentions.1": 0.6}
    got, want = calls(ours, theirs.unet, prompt_of(adapter, weight=by_name), one)
    assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_flux_attends_as_that_of_diffusers(family, loaded, tmp_path):
    ours, pipe = loaded("flux dev"), family("flux dev")[1]
    theirs = deepcopy(pipe.transformer)
    projection = plain(32)
    pairs = {
        f"0.to_{p}_ip.{kind}": drawn(*shape, seed=ord(p))
        for p in "kv"
        for kind, shape in (("weight", (32, 32)), ("bias", (32,)))
    }
    theirs._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": pairs}])
    xlabs = {
        name.replace("to_k_ip", "processor.ip_adapter_double_stream_k_proj")
        .replace("to_v_ip", "processor.ip_adapter_double_stream_v_proj"): value
        for name, value in pairs.items()
    }  # fmt: skip
    names = ("ip_adapter_proj_model", "double_blocks")
    adapter = load_ip_adapter(written(tmp_path / "a.safetensors", projection, xlabs, names), ours)
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.8]
    x, t = drawn(1, 16, 8, 12, scale=1.0), torch.tensor([0.4])
    cond = ours.text.encode(["a red heart"], (16, 24))
    want = theirs(
        pipe._pack_latents(x, *x.shape), timestep=t, guidance=cond.extra["guidance"],
        pooled_projections=cond.extra["pooled_projections"], encoder_hidden_states=cond.embeds,
        txt_ids=torch.zeros(cond.embeds.shape[1], 3), img_ids=pipe._prepare_latent_image_ids(1, 4, 6, "cpu", x.dtype),
        joint_attention_kwargs={"ip_adapter_image_embeds": [seen().image_embeds[:, None]]},
    ).sample  # fmt: skip
    got = ours.model.network(x, t, replace(cond, image_prompts=[prompt_of(adapter)]))
    assert_close(got, pipe._unpack_latents(want, 16, 24, 2), atol=1e-5, rtol=1e-5)
    nowhere = prompt_of(adapter, mask=torch.zeros(1, 8, 12))
    assert torch.equal(ours.model.network(x, t, replace(cond, image_prompts=[nowhere])), ours.model.network(x, t, cond))


@pytest.mark.parametrize("unets", [("sd1", "plain")], indirect=True)
def test_a_run_with_an_image_leaves_the_model_as_it_was(unets):
    """Windows, weight 0 and guidance: an image acts where and when it says, in the conditionings that have it."""
    ours, adapter, _ = unets
    positive, negative = (ours.text.encode([text], (16, 24)) for text in ("a red heart", ""))
    x = drawn(2, 4, 8, 12, scale=10.0)

    def run(shown=(), hidden=()):
        guider = sf.Guider(
            ours.model, replace(positive, image_prompts=shown), replace(negative, image_prompts=hidden), 3.0
        )
        return sf.sample(guider, x, torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=torch.float64))

    without = run()
    shown = prompt_of(adapter)
    hidden = replace(shown, tokens=adapter.tokens(Seen(*3 * [torch.zeros(1, SEES)])))
    first = run([shown], [hidden])
    assert not torch.allclose(first, without, atol=1e-3)
    assert not torch.allclose(run([shown]), first, atol=1e-3)
    for change in ({"weights": [0.0] * len(adapter.layers)}, {"window": (1.0, 1.0)}):
        assert torch.equal(run([replace(shown, **change)], [replace(hidden, **change)]), without)
    assert not torch.allclose(run([replace(shown, window=(0.0, 0.5))]), run([shown]), atol=1e-4)
    both = torch.ones(1, 8, 12)
    assert_close(run([replace(shown, mask=both)], [replace(hidden, mask=both)]), first, atol=1e-4, rtol=1e-4)
    assert torch.equal(run(), without)


@pytest.mark.parametrize("unets", [("sd1", "plain")], indirect=True)
def test_what_does_not_fit_is_refused(unets, loaded, tmp_path):
    ours, adapter, _ = unets
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(ValueError, match=r"is for another network than .*: it has 4 layers of widths \[16, 32\]"):
        load_ip_adapter(path, loaded("sdxl"))
    with pytest.raises(ValueError, match="tiny takes no IP-Adapter"):
        load_ip_adapter(path, sf.load("tiny"))
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="is not an IP-Adapter"):
        load_ip_adapter(tmp_path / "b.safetensors", ours)
    with pytest.raises(ValueError, match="vectors of 24; the vision encoder's have 8"):
        adapter.tokens(Seen(*3 * [torch.zeros(1, 8)]))
    for name in ("up_block_1", "up_blocks.", "up_bl", ""):
        with pytest.raises(ValueError, match=f"weight names '{name}', with which no layer begins"):
            weights_of({name: 1.0}, adapter.layers)
    with pytest.raises(ValueError, match="weights must be 4, one per layer; got 1"):
        replace(prompt_of(adapter), weights=[1.0])


def test_an_adapter_of_another_family_with_equal_layers_is_refused(loaded, tmp_path):
    """Stable Diffusion 1 and 2 have layers of equal widths, and prompts of different ones."""
    ours = loaded("sd1")
    dim, widths = ours.model.module.config.cross_attention_dim, widths_of(ours.model.module)
    other = written(tmp_path / "other.safetensors", plain(2 * dim), layers(widths, 2 * dim))
    with pytest.raises(ValueError, match=f"its tokens are of width {2 * dim}, those of the network's prompts of {dim}"):
        load_ip_adapter(other, ours)
    for name, projection in (("plain", plain), ("plus", plus)):
        mixed = load_ip_adapter(
            written(tmp_path / f"{name}.safetensors", projection(2 * dim), layers(widths, dim)), ours
        )
        with pytest.raises(ValueError, match=f"its tokens are of width {2 * dim}, and its layers take {dim}"):
            mixed.tokens(seen())


def test_layers_are_named_by_whole_parts():
    blocks = [f"transformer_blocks.{i}" for i in range(19)]
    assert [k for k, w in enumerate(weights_of({"transformer_blocks.1": 0.5}, blocks)) if w] == [1]
    assert weights_of({"transformer_blocks": 1.0, "transformer_blocks.18": 0.25}, blocks) == (*[1.0] * 18, 0.25)


def test_of_a_long_image_only_the_middle_is_enlarged(tmp_path):
    """As a whole it would take 28 · 28 times its memory."""
    encoder = sf.load_vision(save_encoder(tmp_path / "encoder.safetensors"))
    ends = torch.zeros(1, 1, 2_000_000, 3)
    ends[:, :, 999_990:1_000_010] = torch.rand(1, 1, 20, 3, generator=torch.Generator().manual_seed(0))
    want = encoder.encode(ends[:, :, 999_990:1_000_010]).image_embeds
    for image in (ends, ends.transpose(1, 2)):
        found = encoder.encode(image).image_embeds
        assert torch.isfinite(found).all()
        if image is ends:
            assert_close(found, want)


@pytest.mark.parametrize("unets", [("sd1", "plain")], indirect=True)
def test_a_recipe_attends_to_images(unets, tmp_path):
    """The prompt attends to the image, the negative prompt to nothing; strength, window and layers are as given."""
    ours, adapter, _ = unets
    encoder = save_encoder(tmp_path / "encoder.safetensors")
    Image.effect_noise((20, 30), 90).save(tmp_path / "a.png")
    entry = sf.AdapterImage(
        str(tmp_path / "adapter.safetensors"), str(encoder), str(tmp_path / "a.png"), 0.7, end=0.5,
        layers=["up_blocks.1.attentions.0"],
    )  # fmt: skip
    recipe = sf.Recipe("a red heart", "blue", ip_adapters=[entry], steps=2, cfg=3.0, guidance="apg")
    sealed, inputs = sf.read_inputs(recipe)
    assert sf.Recipe.from_json(sealed.to_json()) == sealed and sealed.ip_adapters[0].image_sha256
    steering = sf.open_job(sealed, ours, inputs).steering
    pair = adapter.prompts(sf.load_vision(encoder), inputs.attended[0].movedim(1, -1))
    for [made], by_hand in zip((steering.shown, steering.nothing), pair):
        assert torch.equal(made.tokens, by_hand.tokens)
        assert made.weights == (0.0, 0.7, 0.0, 0.0) and made.window == (0.0, 0.5)
    assert not torch.equal(pair[0].tokens, pair[1].tokens)

    def drawn_with(**changes):
        [image] = sf.generate(ours, "a red heart", steps=1, ip_adapters=[replace(entry, **changes)])
        return image.tobytes()

    plainly = sf.generate(ours, "a red heart", steps=1)[0].tobytes()
    assert drawn_with(strength=0.0) == plainly
    assert len({plainly, drawn_with(strength=3.0), drawn_with(strength=3.0, layers=())}) == 3
    with pytest.raises(FileNotFoundError, match=r"none: no such file; an IP-Adapter's encoder is a .safetensors file"):
        drawn_with(encoder="none")
    with pytest.raises(ValueError, match="tiny takes no IP-Adapter"):
        sf.generate(sf.load("tiny"), "x", ip_adapters=[entry])


def test_the_command_line_names_an_adapter_and_its_image():
    text = "net=a,encoder=b,image=c.png,strength=0.5,end=0.8,layers=up_blocks.0+mid_block"
    [made] = READERS.read("ip_adapters", [text])
    assert made == sf.AdapterImage("a", "b", "c.png", 0.5, end=0.8, layers=("up_blocks.0", "mid_block"))
    moved = with_moved(sf.Recipe("x", ip_adapters=[made]), {"ip_adapter_nets": ["d"], "ip_adapter_encoders": ["e"]})
    assert moved.ip_adapters == (replace(made, net="d", encoder="e"),)
    with pytest.raises(ValueError, match="an IP-Adapter must be net=FILE,encoder=FILE,image=PNG"):
        READERS.read("ip_adapters", ["net=a,image=b"])


class Layers:
    """An adapter of one layer that only says its name."""

    layers = ("a",)

    def keys_and_values(self, layer, tokens):
        return tokens, tokens


def test_masks_and_rows_follow_the_latent():
    mask = torch.rand(2, 8, 12)
    prompt = sf.ImagePrompt(Layers(), torch.arange(2.0).reshape(2, 1, 1), [1.0], mask)
    cond = sf.Cond(torch.zeros(2, 1, 1), image_prompts=[prompt])
    [cut] = transformed(fit(cond, (8, 12)), crop(Box(2, 3, 4, 5))).image_prompts
    assert cut.mask is not None and torch.equal(cut.mask, mask[:, 2:6, 3:8]) and torch.equal(cut.tokens, prompt.tokens)
    [second] = transformed(cond, samples([1])).image_prompts
    assert (
        second.mask is not None and torch.equal(second.mask, mask[1:]) and torch.equal(second.tokens, prompt.tokens[1:])
    )
    [small] = fit(cond, (4, 6)).image_prompts
    assert small.mask is not None and small.mask.shape == (2, 4, 6)


def test_threads_load_at_the_same_time(tmp_path):
    """While a network is built, torch's modules are changed for all threads, which must not show in another's."""
    path = save_encoder(tmp_path / "encoder.safetensors")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(sf.load_vision, [path] * 8))
    images = torch.rand(1, 20, 20, 3)
    first = found[0].encode(images).image_embeds
    assert all(each.encode(images).image_embeds.equal(first) for each in found)
