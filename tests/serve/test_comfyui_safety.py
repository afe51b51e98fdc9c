"""What ComfyUI's protocol keeps, opens, shows and encrypts: previews, files of weights, logs, metadata, connections."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from comfy_serving import comfy_engine, comfy_server
from PIL import Image
from serving import Client, png

from sigmafield.serve.comfyui.folders import KEPT_PREVIEWS
from sigmafield.serve.http.run import serve
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.settings import EngineSettings

LOADERS = {
    "CheckpointLoaderSimple": ("checkpoints", {"ckpt_name": "evil.ckpt"}),
    "UNETLoader": ("diffusion_models", {"unet_name": "evil.pth", "weight_dtype": "default"}),
    "CLIPLoader": ("text_encoders", {"clip_name": "evil.pt", "type": "stable_diffusion"}),
    "VAELoader": ("vae", {"vae_name": "evil.pt"}),
    "StyleModelLoader": ("style_models", {"style_model_name": "evil.pkl"}),
    "LoraLoaderModelOnly": ("loras", {"lora_name": "evil.pt2", "strength_model": 1.0, "model": ["tiny", 0]}),
    "CLIPTextEncode": ("embeddings", {"text": "embedding:evil", "clip": ["tiny", 1]}),
}
"""A node for each kind of weights, with a file that is a pickle; that of the embedding is evil.pt."""


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("safety")
    for kind, inputs in LOADERS.values():
        name = next((str(value) for value in inputs.values() if str(value).startswith("evil.")), "evil.pt")
        file = base / "models" / kind / name
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps(Evil(base / "opened")))
    return base


@pytest.fixture(scope="module")
def client(base: Path) -> Iterator[Client]:
    protocol = {"disable_metadata": True, "enable_compress_response_body": True}
    with comfy_engine(base, protocol=protocol) as (client, _):
        yield client


def ended(client: Client, prompt: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The history's entry of a prompt at its end."""
    nodes = {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in prompt.items()}
    posted = client.post("/prompt", {"prompt": nodes, "extra_data": {"extra_pnginfo": {"workflow": {"a": 1}}}})
    assert posted.status == 200, posted.body
    for _ in range(3000):
        if found := client.get(f"/history/{posted.json['prompt_id']}").json:
            return found[posted.json["prompt_id"]]
        time.sleep(0.01)
    raise AssertionError("the prompt does not end")


@pytest.mark.parametrize("kind", LOADERS)
def test_pickles_are_never_opened(client: Client, base: Path, kind: str) -> None:
    inputs = LOADERS[kind][1]
    tiny = {"tiny": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"})} if "tiny" in str(inputs) else {}
    found = ended(client, {**tiny, "1": (kind, inputs), "2": ("PreviewAny", {"source": ["1", 0]})})
    assert found["status"]["status_str"] == "error"
    said = next(data for name, data in found["status"]["messages"] if name == "execution_error")
    assert said["node_id"] == "1" and "pickle" in said["exception_message"], said
    job = client.get(f"/v1/jobs/{found['prompt'][1]}").json
    assert "pickle" in job["error"] and str(base) not in json.dumps([found, job])  # where files are is not said
    assert not (base / "opened").exists()


def test_files_without_metadata(client: Client, base: Path) -> None:
    """They do not say which prompt they come from, nor which workflow; the history still does."""
    data, kind = uploaded(png())
    assert client.ask("POST", "/upload/image", data, kind=kind).status == 200
    loads = ("LoadImage", {"image": "a.png"})
    found = ended(client, {"1": loads, "2": ("SaveImage", {"images": ["1", 0], "filename_prefix": "bare"})})
    assert found["status"]["status_str"] == "success" and found["prompt"][2]["1"]["class_type"] == "LoadImage"
    with Image.open(base / "output" / found["outputs"]["2"]["images"][0]["filename"]) as image:
        assert not set(image.info) & {"prompt", "workflow"}


def uploaded(file: bytes) -> tuple[bytes, str]:
    """A form with an image a.png, and its type."""
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return head + file + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"


def test_answers_are_compressed_for_those_who_can_read_it(client: Client) -> None:
    plain, packed = client.get("/object_info"), client.get("/object_info", Accept_Encoding="deflate, gzip")
    assert packed.headers["Content-Encoding"] == "gzip" and len(packed.body) < len(plain.body) / 4
    assert json.loads(gzip.decompress(packed.body)) == plain.json and "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    data, kind = uploaded(png())
    client.ask("POST", "/upload/image", data, kind=kind)
    image = client.get("/view?filename=a.png&type=input", Accept_Encoding="gzip")
    assert "Content-Encoding" not in image.headers and Image.open(io.BytesIO(image.body)).size == (64, 64)
    assert client.ask("HEAD", "/prompt", headers={"Accept-Encoding": "gzip"}).status == 200
    assert client.ask("OPTIONS", "/prompt", headers={"Accept-Encoding": "gzip"}).body == b""


def test_only_clients_on_this_machine_see_the_log_and_whole_paths(client: Client, base: Path) -> None:
    """Not those behind a proxy on this machine, which says so in a header, by the Host header, or speaks HTTP/1.0."""
    whole = str(base / "models" / "vae")

    def shown(answer: Any) -> bool:
        assert answer.status == 200
        return whole in answer.json["vae"]

    assert shown(client.get("/internal/folder_paths"))
    assert shown(client.get("/internal/folder_paths", Host="localhost:8188"))
    for name in ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"):
        assert not shown(client.ask("GET", "/internal/folder_paths", headers={name: "203.0.113.7"})), name
    assert not shown(client.get("/internal/folder_paths", Host="203.0.113.7"))
    host, port = urlsplit(client.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET /internal/folder_paths HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        text = b"".join(iter(lambda: connection.recv(2**16), b"")).decode()
    assert '"vae"' in text and whole not in text
    assert client.get("/internal/logs/raw", X_Real_IP="203.0.113.7").json["entries"] == []


def test_an_unknown_preview_method_is_said_in_the_log(client: Client) -> None:
    """The server's own is used, as in ComfyUI."""
    name = client.ask("POST", "/upload/image", (made := uploaded(png()))[0], kind=made[1]).json["name"]
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    for method in ("default", "latent3rgb"):
        assert client.post("/prompt", {"prompt": nodes, "extra_data": {"preview_method": method}}).status == 200
    for _ in range(3000):
        text = client.get("/internal/logs").json
        if "latent3rgb" in text:
            break
        time.sleep(0.01)
    assert "unknown preview_method 'latent3rgb': none is used; known: none, auto, latent2rgb, taesd" in text
    assert "preview_method 'default'" not in text


def test_old_previews_are_removed(tmp_path: Path) -> None:
    """When the server starts, and now and then afterwards; those that jobs in the queue need stay."""
    temp = tmp_path / "temp"
    (temp / "sub").mkdir(parents=True)
    old, new, needed = temp / "sub" / "old.png", temp / "new.png", temp / 'sigm\u00e4 "x".png'
    for file in (old, new, needed):
        file.write_bytes(png())
    loads = {"class_type": "LoadImage", "inputs": {"image": f"{needed.name} [temp]"}}
    shows = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    with comfy_engine(tmp_path, start=False) as (_, engine):
        id = str(uuid.uuid4())
        engine.submit("workflow", {"prompt": {"1": loads, "2": shows}}, id=id, client=id)
    for file in (old, needed):
        os.utime(file, (time.time() - KEPT_PREVIEWS - 60,) * 2)
    with comfy_server(tmp_path):
        for _ in range(500):
            if not old.exists():
                break
            time.sleep(0.01)
    assert not old.exists() and new.exists() and needed.exists()


def test_a_preview_that_is_gone_is_made_again(client: Client, base: Path) -> None:
    """Results of nodes that are kept from one prompt to the next outlive the files that they show."""
    data, kind = uploaded(png(colour="blue"))
    name = client.ask("POST", "/upload/image", data, kind=kind).json["name"]
    prompt = {"1": ("LoadImage", {"image": name}), "2": ("PreviewImage", {"images": ["1", 0]})}

    def preview() -> Path:
        return base / "temp" / ended(client, prompt)["outputs"]["2"]["images"][0]["filename"]

    first = preview()
    assert first.is_file() and preview() == first
    first.unlink()
    assert preview().is_file()


def test_the_server_speaks_https(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(
        [shutil.which("openssl") or pytest.skip("no openssl"), *made, *files], check=True, capture_output=True
    )
    for wrong in (
        {"tls_keyfile": key}, {"tls_certfile": certificate}, {"tls_keyfile": certificate, "tls_certfile": certificate},
        {"tls_keyfile": tmp_path / "none", "tls_certfile": certificate},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"tls_(keyfile|certfile)"):
            HttpSettings(**wrong)
    answers: list[Any] = []

    def use(address: str) -> None:
        def work() -> None:
            trusted = ssl.create_default_context(cafile=certificate)
            try:
                with urllib.request.urlopen(f"{address}/healthz", context=trusted, timeout=30) as answer:
                    answers.extend([address.partition(":")[0], answer.status])
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=work).start()

    settings = HttpSettings(port=0, tls_keyfile=key, tls_certfile=certificate)
    serve(tmp_path / "jobs", EngineSettings(devices=("cpu",)), settings, use)
    assert answers == ["https", 200]
