"""OpenAI's own client draws with our server."""

from __future__ import annotations

import base64
import io
import urllib.request
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import ALICE, Client, png

FEW = {"steps": 2, "sampler": "euler", "seed": 1}


@pytest.fixture(scope="module")
def openai() -> ModuleType:
    """The package, whose import takes a second."""
    return import_module("openai")


@pytest.fixture(scope="module")
def client(openai: ModuleType, server: Client) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def image_of(entry) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


def test_images_are_generated(client):
    answer = client.images.generate(prompt="a red heart", n=2, size="64x48", extra_body={"recipe": FEW})
    first, second = map(image_of, answer.data)
    assert first.size == second.size == (64, 48) and first.tobytes() != second.tobytes()
    assert answer.created > 1.7e9


def test_images_are_in_other_formats_and_at_addresses(client):
    extra = {"recipe": FEW}
    webp = client.images.generate(prompt="x", output_format="webp", output_compression=50, extra_body=extra)
    assert image_of(webp.data[0]).format == "WEBP"
    [entry] = client.images.generate(prompt="x", response_format="url", extra_body=extra).data
    with urllib.request.urlopen(entry.url) as answer:
        assert Image.open(io.BytesIO(answer.read())).format == "PNG"


def test_an_edit_changes_what_the_mask_has_transparent(client):
    mask = np.full((64, 64, 4), 255, np.uint8)
    mask[:, :32, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    answer = client.images.edit(
        image=("image.png", png(colour="blue")), mask=("mask.png", buffer.getvalue()), prompt="a red heart",
        extra_body={"recipe": {**FEW, "paste_back": True}},
    )  # fmt: skip
    pixels = np.asarray(image_of(answer.data[0]))
    assert (pixels[:, 32:] == (0, 0, 255)).all() and not (pixels[:, :32] == (0, 0, 255)).all(axis=-1).any(axis=0).all()


def test_an_edit_without_a_mask_changes_all(client):
    answer = client.images.edit(image=[("a.png", png())], prompt="a pizza", n=1, extra_body={"recipe": FEW})
    assert image_of(answer.data[0]).size == (64, 64)


def test_models_are_listed(client):
    assert client.models.list().data[0].id == "tiny"


@pytest.mark.parametrize(
    "arguments, param",
    [
        ({"size": "1024"}, "size"),
        ({"model": "gpt-image-1"}, "model"),
        ({"n": 0}, "n"),
        ({"n": 5}, "batch"),
        ({"stream": True}, "stream"),
        ({"extra_body": {"recipe": {"sampler": "eulr"}}}, "sampler"),
    ],
)
def test_errors_are_those_of_openai(openai, client, arguments, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="x", **arguments)
    assert caught.value.param == param and caught.value.type == "invalid_request_error"


def test_the_key_is_the_token(openai, guarded):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0).models.list()
    assert openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=ALICE).models.list().data
