"""`generate` and `load` as people call them: typed settings, several prompts, other processes, wrong values."""

import base64
import hashlib
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import torch

import sigmafield as sf
from sigmafield.recipes.generate import settled
from sigmafield.recipes.settings import OF_THE_MODEL, Settings
from small_network import small_model

SHORT: Settings = {"steps": 2, "cfg": 3.0}


@pytest.fixture(scope="module")
def pipe():
    return small_model()


def test_settings_are_the_fields_of_a_recipe_with_their_types():
    settings, recipe = get_type_hints(Settings), get_type_hints(sf.Recipe)
    digests = {name for name in recipe if name.endswith("sha256")}
    assert settings.keys() == recipe.keys() - {"prompt", "seed", *OF_THE_MODEL} - digests
    assert settings == {name: recipe[name] for name in settings}


@pytest.mark.typed_elsewhere
def test_several_prompts_are_drawn_as_if_each_were_alone(pipe):
    alone = [sf.generate(pipe, text, seed=k, **SHORT)[0] for text, k in (("red heart", 1), ("green apple", 2))]
    for seeds in ([1, 2], (1, 2), range(1, 3), np.array([1, 2])):
        together = sf.generate(pipe, ["red heart", "green apple"], seed=seeds, **SHORT)
        assert [image.tobytes() for image in together] == [image.tobytes() for image in alone], seeds


@pytest.mark.typed_elsewhere
def test_one_prompt_with_several_seeds_and_one_seed_for_several_prompts(pipe):
    first, second = sf.generate(pipe, "red heart", seed=[1, 2], **SHORT)
    assert first.tobytes() == sf.generate(pipe, ["red heart", "x"], seed=1, **SHORT)[0].tobytes() != second.tobytes()
    assert (
        first.tobytes()
        == sf.generate(pipe, "red heart", seed=np.uint64(1), steps=np.int8(2), cfg=np.float32(3))[0].tobytes()
    )


@pytest.mark.parametrize(
    "arguments, settings, error, message",
    [
        (["a"], {"model": "other"}, ValueError, "model belongs to sf.load: generate draws with the model that was "
         "loaded; got 'other'"),
        (["a"], {"embeddings": "x"}, ValueError, "embeddings belongs to sf.load"),
        (["a"], {"stepz": 3}, TypeError, "generate has no argument 'stepz'; did you mean steps?"),
        (["a"], {"steps": "3"}, ValueError, "the recipe needs steps to be a whole number; got '3'"),
        ([5], {}, ValueError, "the recipe needs prompt to be text; got 5"),
        (["a"], {"seed": "rand"}, ValueError, "or random; got 'rand'"),
        ([["a", "b"]], {"seed": [1, 2, 3]}, ValueError, "one for each; got 3 seeds for 2 prompts"),
        ([[]], {}, ValueError, "prompt and seed must be one or more; got [] and 0"),
        (["(" * 1000 + "a" + ")" * 1000], {}, ValueError, "the prompt nests more than 100 parentheses"),
        (["a"], {"width": 65536, "height": 65536}, ValueError, "65536x65536"),
        (["a"], {"width": 2048, "height": 1024}, ValueError, "2048x1024 is more than 256 times the 64x64 that tiny was "
         "trained for: use tiling, or a smaller size"),
        (["a"], {"batch": 4096, "width": 16384, "height": 16384, "tiling": sf.Tiling()}, ValueError, "GiB or more"),
        (["a"], {"demofusion": sf.DemoFusion(scale=64), "width": 1028, "height": 64}, ValueError, "must be at most "
         "65536; got 65792x4096"),
        (["red heart"], {"cfg": 1e38}, FloatingPointError, "the latent has NaN or infinity after step 2; what usually"),
        (["(a:1e300)"], {}, FloatingPointError, "the latent has NaN or infinity after step 1; what usually helps"),
    ],
    ids=lambda v: str(v)[:30],
)  # fmt: skip
@pytest.mark.typed_elsewhere
def test_what_generate_refuses(pipe, arguments, settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        sf.generate(pipe, *arguments, **{"steps": 4, **settings})


@pytest.mark.typed_elsewhere
def test_generate_needs_a_model():
    with pytest.raises(TypeError, match="generate needs a model, as sf.load gives it; got 'tiny'"):
        sf.generate("tiny", "a red heart")


def test_what_is_not_finite_may_be_allowed(pipe):
    [image] = sf.generate(pipe, "red heart", cfg=1e38, steps=4, allow_nonfinite=True)
    assert image.size == (64, 64)


def test_nan_of_the_vae_alone_is_noticed(pipe):
    broken = replace(pipe, vae=replace(pipe.vae, decoder=lambda z: torch.full((len(z), 3, 64, 64), torch.nan)))
    with pytest.raises(FloatingPointError, match="the VAE decoded the latent to NaN or infinity; what usually helps"):
        sf.generate(broken, "red heart", steps=1)


DRAW = """
import base64, hashlib, pickle, sys
import sigmafield as sf
pipe = pickle.loads(base64.b64decode(sys.argv[1]))
[image] = sf.generate(pipe, "red heart", steps=2, cfg=3.0)
print(hashlib.sha256(image.tobytes()).hexdigest(), pipe.model.max_rows)
"""


def test_a_model_is_pickled_as_the_call_that_loads_it(few_channels):
    """With its options: the same image, and no weights are sent."""
    here = sf.load("tiny", device="cpu", max_rows=1)
    sent = pickle.dumps(here)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert there.model.module is not here.model.module and there.model.max_rows == 1
    [one], [other] = (sf.generate(pipe, "red heart", **SHORT) for pipe in (here, there))
    assert one.tobytes() == other.tobytes()


@pytest.mark.slow  # a process imports for seconds
def test_a_model_is_sent_to_another_process(tmp_path):
    """From another folder, with its options: the same image."""
    here = sf.load("tiny", device="cpu", max_rows=1)
    sent = pickle.dumps(here)
    command = [sys.executable, "-c", DRAW, base64.b64encode(sent).decode()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    [image] = sf.generate(here, "red heart", **SHORT)
    assert done.stdout.split() == [hashlib.sha256(image.tobytes()).hexdigest(), "1"]


def test_a_changed_model_says_how_to_send_it(pipe):
    for value, message in (
        (replace(pipe, vae=pipe.vae), "a model that was changed after sf.load cannot be sent to another process: send"),
        (pipe.model, "a part of a model cannot be sent to another process: send the whole"),
    ):
        with pytest.raises(TypeError, match=message):
            pickle.dumps(value)


def test_a_path_of_a_model_means_the_same_in_another_folder(sd1, monkeypatch, tmp_path):
    monkeypatch.chdir(sd1[0].parent)
    sent = pickle.dumps(sf.load(sd1[0].name, device="cpu"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(sent).model.name == sd1[0].name


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"device": "gpu"}, ValueError, "unknown device 'gpu'; torch calls it cuda"),
        ({"device": "GPU:1"}, ValueError, "unknown device 'GPU:1'; torch calls it cuda"),
        ({"device": 0}, ValueError, "load needs device to be text or device; got 0"),
        ({"dtype": "float61"}, ValueError, "unknown dtype 'float61'; did you mean float16"),
        ({"max_rows": 0}, ValueError, "load needs max_rows ≥ 1; got 0"),
        ({"max_rows": "4"}, ValueError, "load needs max_rows to be a whole number; got '4'"),
        ({"offload": "no"}, ValueError, "load needs offload to be true or false; got 'no'"),
        ({"model": 5}, ValueError, "load needs model to be a name or a path; got 5"),
        ({"loras": ["nope.safetensors"]}, FileNotFoundError, "LoRA 'nope.safetensors': no such file"),
        ({"loras": "nope.safetensors"}, TypeError, "got 'nope.safetensors': put it in a list"),
        ({"loras": [5]}, TypeError, "an entry of loras must be a path, or a path and its strength; got 5"),
        ({"loras": {__file__: "much"}}, TypeError, "its strength must be a number, or two"),
    ],
    ids=str,
)
@pytest.mark.typed_elsewhere
def test_what_load_refuses(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        sf.load(**options)


def test_a_recipe_says_which_model_drew_it(sd1):
    pipe = sf.load(sd1[0], device="cpu")
    settings = {"model": str(sd1[0]), "parts": None, "embeddings": None, "skip_unknown_embeddings": False}
    assert settled(pipe) == {**settings, "loras": (), "lora_partial": False}
    assert settled(replace(pipe, vae=pipe.vae))["model"] == sd1[0].name
