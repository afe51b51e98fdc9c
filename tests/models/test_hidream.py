"""HiDream-I1 against diffusers' pipeline and module, its files, and its nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recent_models
import torch
from safetensors.torch import save_file
from small_models import clip, t5, write_words
from torch import Tensor
from torch.testing import assert_close

from sigmafield import sample
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes.ksampler import ksampler
from sigmafield.comfyui.nodes.prompts import clip_text_encode, clip_text_encode_hidream
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load_parts import load_network, load_text

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
PROMPTS = ["a red heart", "the green horse"]
CPU = torch.device("cpu")


def latents(batch: int, height: int = 4, width: int = 6) -> Tensor:
    return torch.randn(batch, 16, height, width, generator=torch.Generator().manual_seed(0))


def test_text(loaded: Loaded, family: Family) -> None:
    ours, (_, pipe) = loaded("hidream"), family("hidream")
    cond = ours.text.encode(PROMPTS, (0, 0))
    t5_states, _, llama, _, pooled, _ = pipe.encode_prompt(PROMPTS, device=CPU, do_classifier_free_guidance=False)
    assert_close(cond.embeds, t5_states, atol=1e-5, rtol=0)
    assert_close(cond.extra["llama_states"], llama.transpose(0, 1), atol=1e-5, rtol=0)
    assert_close(cond.extra["pooled_projections"], pooled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(4, 4), (4, 6)])
def test_whole_run(size: tuple[int, int], loaded: Loaded, family: Family) -> None:
    """Euler's steps at the noise levels of diffusers' scheduler end where its pipeline ends, in squares and others."""
    ours, (_, pipe) = loaded("hidream"), family("hidream")
    x, factor = latents(1, *size), ours.model.latent.factor
    texts = [pipe.encode_prompt([text], device=CPU, do_classifier_free_guidance=False) for text in (PROMPTS[0], "1999")]
    states, negative = ({"t5": t[0], "llama": t[2], "pooled": t[4]} for t in texts)
    pipe.default_sample_size = (size[0] * size[1]) ** 0.5 + 1e-6  # it draws images of this many pixels only
    want = pipe(
        prompt_embeds_t5=states["t5"], prompt_embeds_llama3=states["llama"], pooled_prompt_embeds=states["pooled"],
        negative_prompt_embeds_t5=negative["t5"], negative_prompt_embeds_llama3=negative["llama"],
        negative_pooled_prompt_embeds=negative["pooled"], height=size[0] * factor, width=size[1] * factor,
        num_inference_steps=3, guidance_scale=3.0, latents=x, output_type="latent",
    )[0]  # fmt: skip
    conds = [ours.text.encode([text], (0, 0)) for text in (PROMPTS[0], "1999")]
    got = sample(
        Guider(ours.model, *conds, 3.0), x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process
    )
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_network(loaded: Loaded, family: Family) -> None:
    ours, (_, pipe) = loaded("hidream"), family("hidream")
    x, cond = latents(2), ours.text.encode(PROMPTS, (0, 0))
    want = pipe.transformer(
        x, timesteps=torch.tensor([600.0, 200.0]), encoder_hidden_states_t5=cond.embeds,
        encoder_hidden_states_llama3=cond.extra["llama_states"].transpose(0, 1),
        pooled_embeds=cond.extra["pooled_projections"],
    ).sample  # fmt: skip
    assert_close(ours.model.network(x, torch.tensor([600.0, 200.0]), cond), -want, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="HiDream draws at most 36 tokens where an image is not square; got 4x10"):
        ours.model.network(latents(1, 8, 20), torch.tensor([600.0]), ours.text.encode([""], (0, 0)))


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)
    return path


@pytest.mark.slow
def test_files(tmp_path: Path, loaded: Loaded, family: Family) -> None:
    """The network, whose names are diffusers', and four text encoders in any order; Llama's words lie next to it."""
    ours, (_, pipe) = loaded("hidream"), family("hidream")
    model = load_network(written(tmp_path / "network.safetensors", pipe.transformer.state_dict()))
    assert model.module is not None and ours.model.module is not None
    own, want = model.module.state_dict(), ours.model.module.state_dict()
    assert own.keys() == want.keys() and all(torch.equal(value, want[name]) for name, value in own.items())
    assert model.family == ours.model.family and float(model.sampling.levels.timestep(torch.tensor(0.25))) == 250

    llama = recent_models.llama(512)
    encoders = {
        "clip_l": clip(49408, 32, projection=32, max_position_embeddings=248).state_dict(),
        "clip_g": clip(49408, 48, projection=24, max_position_embeddings=248).state_dict(),
        "t5": {name: value for name, value in t5("T5", 32128).state_dict().items() if "embed_tokens" not in name},
        "llama": llama.state_dict(),
    }
    paths = [written(tmp_path / f"{name}.safetensors", tensors) for name, tensors in encoders.items()]
    with pytest.raises(ValueError, match=r"has no tokenizer with it, neither .* nor in a file llama.tokenizer.json"):
        load_text(paths, "hidream")
    write_words(tmp_path / "words", "LlamaTokenizerFast")
    text = (tmp_path / "words" / "tokenizer.json").read_text().replace("</s>", "<|eot_id|>")
    (tmp_path / "llama.tokenizer.json").write_text(text.replace("<bos>", "<|begin_of_text|>"))
    cond = load_text(paths[::-1], "hidream").encode(["a red heart"], (0, 0))
    assert cond.embeds.shape == (1, 128, 32) and cond.extra["llama_states"].shape == (1, 2, 128, 32)
    assert cond.extra["pooled_projections"].shape == (1, 32 + 24)


def test_nodes(loaded: Loaded) -> None:
    """A prompt for each encoder; the same for all is a plain prompt, and a workflow draws with it."""
    ours = loaded("hidream")
    model = NodeModel(ours.model, text=ours.text)
    plain = clip_text_encode(PROMPTS[0], ours.text)
    same = clip_text_encode_hidream(ours.text, *PROMPTS[:1] * 4)
    assert torch.equal(plain[0][0], same[0][0])
    names = ("pooled_output", "pooled_output", None, "conditioning_llama3")
    for which, name in enumerate(names):
        texts = [PROMPTS[0]] * 4
        texts[which] = PROMPTS[1]
        [(embeds, extra)] = clip_text_encode_hidream(ours.text, *texts)
        assert torch.equal(embeds, plain[0][0]) == (which != 2)
        for key in ("pooled_output", "conditioning_llama3"):
            assert torch.equal(extra[key], plain[0][1][key]) == (key != name)
    latent = {"samples": torch.zeros(1, 16, 4, 4)}
    drawn = ksampler(
        model, 5, 2, 3.0, sampler_name="euler", scheduler="simple", positive=plain,
        negative=clip_text_encode("", ours.text), latent_image=latent,
    )  # fmt: skip
    assert torch.isfinite(drawn["samples"]).all()
