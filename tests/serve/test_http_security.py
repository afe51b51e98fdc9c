"""What a server refuses: files that are not for clients, too much, too slow, strangers, pages of other sites."""

from __future__ import annotations

import base64
import io
import logging.handlers
import queue
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import pytest
from PIL import Image
from serving import ALICE, RECIPE, Client, png

from sigmafield.serve.http.settings import HttpSettings, read_tokens


def test_bytes_that_are_not_http_leave_no_trace_in_the_log(server: Client):
    host, port = urlsplit(server.url).netloc.split(":")
    noted = logging.handlers.QueueHandler(queue.SimpleQueue())
    logging.getLogger().addHandler(noted)
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\xff\xff", b"GET / HTTP/9.x", b"GET /\0 HTTP/1.1\r\nA\0: b"):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(junk + b"\r\n\r\n")
            assert connection.recv(1000).split()[1] == b"400"
    assert server.get("/healthz").status == 200
    logging.getLogger().removeHandler(noted)
    assert noted.queue.empty()


OUTSIDE = ["../secret.png", "more/../../secret.png", "/etc/passwd", "./heart.png", "out/secret.png", "link.png", "..",
           "", ".", "heart.png/", "//heart.png", "C:\\secret.png", "..\\secret.png", "heart.png\0", "file:///etc/passwd",
           "~/secret.png", "http://127.0.0.1/x.png", "memory:00", "a" * 5000]  # fmt: skip


def refused(server: Client, **entries: object) -> str:
    """The message of the error that a recipe with these entries gives; it names none of the server's folders."""
    answer = server.post("/v1/jobs", {"recipe": {**RECIPE, **entries}})
    assert answer.status == 400, answer.body
    assert "pytest" not in answer.error["message"]
    return answer.error["message"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_recipe_names_no_image_outside_of_the_folder_of_inputs(server, name):
    refused(server, image=name)
    refused(server, image="heart.png", mask=name)
    refused(server, image="heart.png", denoise_map=name)
    refused(server, controls=[{"net": "loras", "image": name}])
    refused(server, references=[{"image": name}])
    refused(server, ip_adapters=[{"net": "loras", "encoder": "loras", "image": name}])


def test_an_error_does_not_tell_which_files_exist(server, root):
    for folder in (f"{root}/", "../", "out/", "more/../../"):
        there, missing = (
            server.post("/v1/jobs", {"recipe": {**RECIPE, "image": folder + name}}).error["message"]
            for name in ("secret.png", "nothing.png")
        )
        assert there.replace("secret", "nothing") == missing


@pytest.mark.parametrize(
    "name", ["evil.ckpt", "../secret.png", "/etc/passwd", "link.safetensors", "stabilityai/sdxl", ""]
)
def test_a_recipe_names_no_weights_but_those_of_the_server(server, name):
    refused(server, model=name)
    refused(server, loras=[{"path": name}])
    refused(server, controls=[{"net": name, "image": "heart.png"}])
    refused(server, ip_adapters=[{"net": name, "encoder": name, "image": "heart.png"}])
    refused(server, parts=name)
    refused(server, embeddings=name)


def test_a_workflow_reads_no_file_of_the_server(server, root):
    def errors(image: str) -> str:
        nodes = {
            "1": {"class_type": "LoadImage", "inputs": {"image": image}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
        return server.post("/v1/jobs", {"workflow": nodes}).error["message"]

    for name in ("../secret.png", "/etc/passwd", "../../inputs/heart.png", "out/secret.png", "x [output]"):
        assert errors(name)
    for folder in (f"{root}/", "../", "out/"):
        assert errors(f"{folder}secret.png").replace("secret", "nothing") == errors(f"{folder}nothing.png")
    prefix = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../../../x"}},
    }
    error = server.post("/v1/jobs", {"workflow": prefix}).error
    assert "output folder" in error["message"] and error["field"] == "workflow"


def test_an_error_of_a_node_names_no_folder_of_the_server(server, root):
    upload = server.ask("POST", "/v1/uploads", png(), kind="image/png").json["image"]
    nodes = {
        "1": {"class_type": "LoadAudio", "inputs": {"audio": upload}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    message = server.post("/v1/generate", {"workflow": nodes}).error["message"]
    assert "has no audio" in message and str(root) not in message


@pytest.mark.parametrize(
    "path",
    [
        "/page/../http/app.py", "/page/%2e%2e%2fhttp%2fapp.py", "/page/..%5capp.py", "/page/%00", "/../../etc/passwd",
        "/v1/jobs/..%2f..%2fjobs.sqlite", "/v1/jobs/{job}/outputs/..%2f..%2f..%2fjobs.sqlite",
        "/v1/jobs/{job}/outputs/-1", "/v1/jobs/{job}/outputs/1", "/v1/jobs/{job}/outputs/0x0",
        "/v1/jobs/{job}/outputs/%D9%A0", "//etc/passwd",
    ],
)  # fmt: skip
def test_an_address_leads_to_no_other_file(server, done, path):
    connection = server.connection()
    connection.putrequest("GET", path.format(job=done["id"]), skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status in (400, 404) and b"SQLite format" not in answer.read()


def test_a_body_that_is_too_large_is_refused(server):
    large = b" " * (2**20 + 1)
    for path, kind in (("/v1/jobs", "application/json"), ("/v1/uploads", "image/png")):
        assert server.ask("POST", path, large, kind=kind).status == 413
        chunked = server.connection()
        chunked.request("POST", path, iter([large]), {"Content-Type": kind}, encode_chunked=True)
        assert chunked.getresponse().status == 413
    form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + large + b"\r\n--x--\r\n"
    assert server.ask("POST", "/v1/uploads", form, kind="multipart/form-data; boundary=x").status == 413
    assert server.get("/healthz", X_Long="x" * 10000).status == 400


def sent_slowly(server: Client, text: str) -> bytes:
    """All that a server answers to a request that never gets complete."""
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=20) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        found = b""
        while chunk := connection.recv(4096):
            found += chunk
        return found


def test_bodies_that_take_too_long_are_refused(guarded):
    def answer(kind: str) -> bytes:
        path = "/v1/jobs" if kind == "application/json" else "/v1/uploads"
        head = f"POST {path} HTTP/1.1\nHost: 127.0.0.1\nAuthorization: Bearer {ALICE}\nContent-Type: {kind}\n"
        body = '--x\nContent-Disposition: form-data; name="file"\n\nabc' if "form" in kind else "{"
        return sent_slowly(guarded, f"{head}Content-Length: 500\n\n{body}")

    with ThreadPoolExecutor() as at_once:
        for found in at_once.map(answer, ["application/json", "multipart/form-data; boundary=x", "image/png"]):
            assert found.startswith(b"HTTP/1.1 408")


def test_headers_that_take_too_long_end_the_connection(guarded):
    with ThreadPoolExecutor() as at_once:
        texts = ["GET /healthz HTTP/1.1\nHost: 127.0.0.1\n", ""]
        assert list(at_once.map(partial(sent_slowly, guarded), texts)) == [b"", b""]


def test_a_slow_reader_holds_nobody_up(server):
    connection = server.connection()
    connection.request("GET", "/v1/events?previews=1")
    connection.getresponse()  # and never reads
    for _ in range(2):
        assert server.until(server.submit(steps=2), "done")
    connection.close()


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", f"Bearer {ALICE[:-1]}", f"Bearer {ALICE}x", f"Basic {ALICE}", ALICE, "Bearer é"],
)
def test_a_wrong_token_is_refused(guarded, value):
    headers = {} if value is None else {"Authorization": value}
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/generate"), ("GET", "/metrics"), ("GET", "/v1/nothing")):
        answer = guarded.ask(method, path, headers=headers)
        assert answer.status == 401 and answer.error["type"] == "authentication_error"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.ask("GET", "/healthz", headers=headers).status == 200


def test_the_right_token_is_accepted(alice):
    assert alice.get("/v1/jobs").status == 200


def test_an_owner_sees_nothing_of_another(alice, bob):
    job = alice.submit()
    output = alice.until(job, "done")["outputs"][0]["url"]
    base = f"/v1/jobs/{job}"
    asked = [("GET", base), ("DELETE", base), ("GET", f"{base}/events"), ("GET", output), ("GET", f"{base}/preview")]
    asked += [("POST", f"{base}/{verb}") for verb in ("pause", "resume", "cancel")]
    for method, path in asked:
        assert bob.ask(method, path).status == 404
    assert bob.post(f"{base}/clone", {}).status == bob.post(f"{base}/priority", {"priority": 1}).status == 404
    assert job not in {each["id"] for each in bob.get("/v1/jobs?limit=1000").json["jobs"]}
    image = alice.ask("POST", "/v1/uploads", png(colour="cyan"), kind="image/png").json
    assert "no upload" in refused(bob, image=image["image"])
    assert bob.ask("DELETE", f"/v1/uploads/{image['id']}").status == 404
    nodes = {"1": {"class_type": "LoadImage", "inputs": {"image": image["id"]}}}
    nodes["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    assert bob.post("/v1/jobs", {"workflow": nodes}).status == 400
    assert alice.post("/v1/jobs", {"workflow": nodes}).status == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host):
    with pytest.raises(ValueError, match="token"):
        HttpSettings(host=host)
    assert HttpSettings(host=host, tokens={"a": "0123456789abcdef"})


def test_tokens_are_read_by_line():
    assert read_tokens("# those of today\nalice 0123456789abcdef\n\nbob fedcba9876543210 # his\n") == {
        "alice": "0123456789abcdef", "bob": "fedcba9876543210",
    }  # fmt: skip
    for text in ("", "a b c", "a x\na y", "a x\nb x"):
        with pytest.raises(ValueError, match="token"):
            read_tokens(text)
    with pytest.raises(ValueError, match="16"):
        HttpSettings(tokens={"a": "short"})


REBOUND = """evil.example evil.example:80 localhost.evil.example 127.0.0.1.evil.example x@y 127.0.0.1@evil.example
             127.0.0.1:x [::1 127.0.0.1/x 2130706433.example"""


@pytest.mark.parametrize("host", ["", *REBOUND.split()])
def test_a_name_that_was_rebound_to_this_address_is_refused(server, host):
    for method, path in (("GET", "/"), ("POST", "/v1/jobs"), ("GET", "/healthz")):
        assert server.ask(method, path, headers={"Host": host}).status in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8188", "localhost", "LOCALHOST:1", "[::1]:8188", "10.1.2.3"])
def test_addresses_and_localhost_are_known(server, host):
    assert server.get("/v1/jobs", Host=host).status == 200


def test_a_name_can_be_allowed(alice):
    assert alice.get("/v1/jobs", Host="images.example:80").status == 200
    assert alice.get("/v1/jobs", Host="other.example").status == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "file://", "x"]
)
def test_pages_of_other_sites_are_refused(server, origin):
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("OPTIONS", "/v1/jobs")):
        answer = server.ask(method, path, headers={"Origin": origin})
        assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers


def test_the_own_page_and_links_are_not(server):
    host = urlsplit(server.url).netloc
    assert server.get("/v1/jobs", Origin=server.url).status == 200
    assert server.get("/v1/jobs", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200
    assert server.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Host=host).status == 200
    assert server.get("/v1/jobs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403


def test_a_site_can_be_allowed(alice, guarded):
    origin = "https://app.example"
    asked = guarded.ask("OPTIONS", "/v1/jobs", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert asked.status == 204 and "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = alice.get("/v1/jobs", Origin=origin)
    assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == origin
    assert guarded.get("/v1/jobs", Origin=origin).status == 401


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, more: bytes = b"") -> bytes:
    """A small PNG of many pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")


def zeros(mebibytes: int) -> bytes:
    """A zlib stream of zeros: one deflated piece, repeated, which takes no time to make."""
    deflate = zlib.compressobj(9, wbits=-15)
    piece = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    adler = (mebibytes * 2**20 % 65521) << 16 | 1
    return b"\x78\xda" + piece * mebibytes + deflate.flush() + struct.pack(">I", adler)


def frames(n: int) -> bytes:
    buffer = io.BytesIO()
    images = [Image.new("L", (8, 8), k) for k in range(n)]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
    return buffer.getvalue()


BOMBS = {
    "many pixels": bomb(50000, 50000),
    "more than the limit": bomb(257, 257),
    "many frames": frames(5),
    "compressed text": bomb(8, 8, chunk(b"zTXt", b"a\0\0" + zeros(256))),
    "compressed profile": bomb(8, 8, chunk(b"iCCP", b"a\0\0" + zeros(256))),
    "half of an image": png(64, 64)[:60],
    "text": b"hello",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_upload_that_is_a_bomb_or_no_image_is_refused(server, name):
    began = time.process_time()
    assert server.ask("POST", "/v1/uploads", BOMBS[name], kind="image/png").status == 400
    url = "data:image/png;base64," + base64.b64encode(BOMBS[name]).decode()
    assert server.post("/v1/jobs", {"recipe": {**RECIPE, "image": url}}).status == 400
    assert time.process_time() - began < 5  # its pixels would take minutes


@pytest.mark.parametrize(
    "url", ["data:text/html;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64,~", "data:,"]
)
def test_a_data_url_is_an_image_in_base64(server, url):
    assert "data URL" in refused(server, image=url)


def test_answers_are_not_taken_for_another_type(server, done):
    answer = server.get(done["outputs"][0]["url"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in server.get("/").headers["Content-Security-Policy"]
