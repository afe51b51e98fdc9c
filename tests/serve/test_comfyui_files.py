"""Files of ComfyUI's protocol: uploads, view, models, userdata, settings, users, and the page's own routes."""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from comfy_serving import comfy_engine, comfy_server
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving import ALICE, BOB, Answer, Client, png

from sigmafield.serve.comfyui.folders import FileSettings, make_directories


def weights(**texts: str) -> bytes:
    """The bytes of a safetensors file with one number."""
    header = {"__metadata__": texts, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps({name: each for name, each in header.items() if each}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("comfy")
    loras = base / "models" / "loras"
    (loras / "style").mkdir(parents=True)
    (loras / "style" / "red.safetensors").write_bytes(weights(author="someone"))
    (loras / "style" / "red.png").write_bytes(png())
    (loras / "plain.safetensors").write_bytes(weights())
    (loras / "old.ckpt").write_bytes(b"a pickle")
    (base / "secret.png").write_bytes(png(colour="green"))
    return base


@pytest.fixture(scope="module")
def comfy(base: Path) -> Iterator[Client]:
    with comfy_server(base) as client:
        yield client


def form(file: bytes | None, name: str = "a.png", **fields: str) -> tuple[bytes, str]:
    """A multipart form and its type."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n'.encode()
        for key, text in fields.items()
    ]
    if file is not None:
        head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        parts.insert(0, head + file + b"\r\n")
    return b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b"


def upload(comfy: Client, file: bytes | None, name: str = "a.png", to: str = "/upload/image", **fields: str) -> Answer:
    data, kind = form(file, name, **fields)
    return comfy.ask("POST", to, data, kind=kind)


def opened(answer: Answer) -> Image.Image:
    assert answer.status == 200
    return Image.open(io.BytesIO(answer.body))


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_an_upload_is_found_again(comfy: Client, prefix: str) -> None:
    """Of either address, and a file of the same name and bytes is the same upload, another one gets a number."""
    name = f"up{len(prefix)}.png"
    assert upload(comfy, png(), name, f"{prefix}/upload/image").json == {"name": name, "subfolder": "", "type": "input"}
    assert upload(comfy, png(), name).json["name"] == name
    assert upload(comfy, png(colour="blue"), name).json["name"] == name.replace(".", " (1).")
    assert upload(comfy, png(colour="blue"), name).json["name"] == name.replace(".", " (1).")
    assert opened(comfy.get(f"{prefix}/view?filename={name}&type=input")).getpixel((0, 0)) == (255, 0, 0)
    assert upload(comfy, png(colour="blue"), name, overwrite="true").json["name"] == name
    assert opened(comfy.get(f"/view?filename={name}&type=input&rand=0.5")).getpixel((0, 0)) == (0, 0, 255)


def test_an_upload_stays_in_its_directory(comfy: Client, base: Path) -> None:
    made = upload(comfy, png(), "b.png", subfolder="sub/dir", type="temp").json
    assert made == {"name": "b.png", "subfolder": "sub/dir", "type": "temp"}
    assert (base / "temp" / "sub" / "dir" / "b.png").is_file()
    for fields in ({"subfolder": ".."}, {"subfolder": "/etc"}, {"type": "user"}, {"subfolder": "a\0b"}):
        assert upload(comfy, png(), "b.png", **fields).status == 400, fields
    for name in ("../c.png", "..", ""):
        assert upload(comfy, png(), name).status == 400, name
    assert upload(comfy, None, subfolder="x").status == 400
    assert comfy.ask("POST", "/upload/image", b"nothing", kind="text/plain").status == 400
    assert not (base / "c.png").exists() and not list((base / "temp").glob(".upload*"))


@pytest.mark.parametrize(
    "name, subfolder",
    [("x" * 300 + ".png", ""), ("b.png", "x" * 300), ("b.png", "d/" * 1500), ("b.png", "taken"), ("a\0b.png", ""),
     ("a\nb.png", "")],
    ids=["long name", "long folder", "deep", "a file as folder", "NUL", "new line"],
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_refused(comfy: Client, base: Path, name: str, subfolder: str) -> None:
    """By uploads, views and userdata, with a reason and not as a fault of the server."""
    (base / "input" / "taken").touch()
    answer = upload(comfy, png(), name, subfolder=subfolder)
    assert answer.status == 400 and "the server has failed" not in answer.body.decode()
    where = f"{subfolder}/{name}".lstrip("/")
    assert comfy.get(f"/view?type=input&filename={quote(name)}&subfolder={quote(subfolder)}").status in (403, 404)
    assert comfy.ask("POST", f"/userdata/{quote(where.replace('taken', 'f'), safe='')}", b"5").status in (200, 403)
    assert not list((base / "temp").glob(".upload*"))


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("body", [[], 5, {"delete": 5}, {"delete": "x"}, {"delete": [None]}])
def test_what_is_deleted_is_a_list_of_ids(comfy: Client, path: str, body: Any) -> None:
    answer = comfy.ask("POST", path, json.dumps(body).encode())
    assert answer.status == 400 and ("delete must be a list" in str(answer.json) or "an object" in str(answer.json))


def test_a_link_leads_nowhere(comfy: Client, base: Path) -> None:
    (base / "input" / "out").symlink_to(base)
    assert comfy.get("/view?filename=secret.png&subfolder=out&type=input").status == 403
    assert upload(comfy, png(), "c.png", subfolder="out").status == 400
    (base / "user" / "default").mkdir(exist_ok=True)
    (base / "user" / "default" / "out").symlink_to(base)
    assert comfy.get("/userdata/out%2Fsecret.png").status == 403


def test_a_mask_is_the_transparency_of_an_image(comfy: Client) -> None:
    texts = PngInfo()
    texts.add_text("workflow", '{"nodes": []}')
    original, painted = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(original, "PNG", pnginfo=texts)
    Image.new("RGBA", (8, 4), (0, 255, 0, 77)).save(painted, "PNG")
    upload(comfy, original.getvalue(), "original.png")
    reference = json.dumps({"filename": "original.png", "type": "input"})
    made = upload(comfy, painted.getvalue(), "m.png", "/upload/mask", original_ref=reference, subfolder="clipspace")
    assert made.json == {"name": "m.png", "subfolder": "clipspace", "type": "input"}
    image = opened(comfy.get("/view?filename=m.png&subfolder=clipspace&type=input"))
    assert image.mode == "RGBA" and image.getpixel((0, 0)) == (255, 0, 0, 77)
    assert image.info["workflow"] == '{"nodes": []}'
    for wrong in ("", "1", '{"filename": "../secret.png", "type": "input"}', '{"filename": "no.png"}'):
        assert upload(comfy, painted.getvalue(), "m.png", "/upload/mask", original_ref=wrong).status == 400, wrong


def test_an_upload_is_limited(tmp_path: Path) -> None:
    with comfy_server(tmp_path, max_upload_size=0.01) as small:
        assert upload(small, bytes(20_000)).status == 413
        assert small.ask("POST", "/userdata/a.json", bytes(20_000)).status == 413
        assert small.get("/features").json["max_upload_size"] >= 10485
        assert not list((tmp_path / "temp").iterdir())


@pytest.mark.parametrize(
    "query, status",
    [
        ("", 404), ("?filename=", 404), ("?filename=no.png", 404), ("?filename=/etc/passwd", 400),
        ("?filename=../secret.png", 400), ("?filename=a.png&type=user", 400),
        ("?filename=secret.png&subfolder=..", 403), ("?filename=secret.png&subfolder=/", 403),
    ],
)  # fmt: skip
def test_view_refuses(comfy: Client, query: str, status: int) -> None:
    assert comfy.get(f"/view{query}").status == status


def test_view_changes_images(comfy: Client, base: Path) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (6, 4), (10, 200, 30, 40)).save(data, "PNG")
    (base / "output").mkdir(exist_ok=True)
    (base / "output" / "alpha.png").write_bytes(data.getvalue())
    whole = comfy.get("/view?filename=alpha.png")
    assert whole.body == data.getvalue()
    assert whole.headers["Content-Disposition"] == 'filename="alpha.png"'
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert comfy.get("/view?filename=alpha.png%20%5Boutput%5D&type=input").body == data.getvalue()
    rgb = opened(comfy.get("/view?filename=alpha.png&channel=rgb"))
    assert (rgb.mode, rgb.format, rgb.getpixel((0, 0))) == ("RGB", "PNG", (10, 200, 30))
    alpha = opened(comfy.get("/view?filename=alpha.png&channel=a"))
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 40))
    for preview, kind in (("webp;75", "WEBP"), ("jpeg", "JPEG"), ("jpeg;1000", "JPEG"), ("bmp", "WEBP")):
        assert opened(comfy.get(f"/view?filename=alpha.png&preview={preview}")).format == kind
    assert opened(comfy.get("/view?filename=alpha.png&preview=jpeg&channel=a")).format == "WEBP"
    part = comfy.get("/view?filename=alpha.png", Range="bytes=1-3")
    assert (part.status, part.body) == (206, b"PNG")


def test_pages_are_not_run(comfy: Client, base: Path) -> None:
    """Files that a browser would run are saved by it; an SVG may be shown as an image."""
    for name in ("a.html", "a.js", "a.css", "a.xhtml", "a.svg", "a.xml"):
        (base / "output" / name).write_text("<script>alert(1)</script>")
        answer = comfy.get(f"/view?filename={name}")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["Cache-Control"] == "no-store"
    shown = comfy.get("/view?filename=a.svg", Sec_Fetch_Dest="image")
    assert shown.headers["Content-Type"] == "image/svg+xml"
    assert comfy.get("/view?filename=a.html", Sec_Fetch_Dest="image").headers["Content-Type"].endswith("octet-stream")
    assert comfy.get("/view?filename=a.html&preview=webp").headers["Content-Type"] == "application/octet-stream"


def test_models(comfy: Client, base: Path) -> None:
    names = comfy.get("/models").json
    assert {"checkpoints", "loras", "vae", "text_encoders", "embeddings"} <= set(names)
    assert comfy.get("/api/models/loras").json == ["old.ckpt", "plain.safetensors", "style/red.safetensors"]
    assert comfy.get("/models/nope").status == 404
    library = {each["name"]: each["folders"] for each in comfy.get("/experiment/models").json}
    assert "configs" not in library
    assert library["loras"] == [str(base / "models" / "loras"), str(base / "output" / "loras")]
    assert comfy.get("/internal/folder_paths").json["loras"] == library["loras"]
    files = {each["name"]: each for each in comfy.get("/experiment/models/loras").json}
    red = files["style/red.safetensors"]
    assert red["pathIndex"] == 0 and red["size"] > 0 and set(red) >= {"modified", "created"}
    assert comfy.get("/experiment/models/nope").status == 404
    assert opened(comfy.get("/experiment/models/preview/loras/0/style/red.safetensors")).format == "WEBP"
    for path in (
        "loras/0/plain.safetensors",
        "loras/7/style/red.safetensors",
        "nope/0/a",
        "loras/0/..%2F..%2Fsecret.png",
    ):
        assert comfy.get(f"/experiment/models/preview/{path}").status == 404, path


def test_texts_in_models(comfy: Client) -> None:
    assert comfy.get("/view_metadata/loras?filename=style%2Fred.safetensors").json == {"author": "someone"}
    for query in (
        "loras?filename=plain.safetensors",
        "loras?filename=old.ckpt",
        "loras",
        "nope?filename=a.safetensors",
    ):
        assert comfy.get(f"/view_metadata/{query}").status == 404, query
    assert comfy.get("/view_metadata/loras?filename=..%2F..%2Fsecret.png").status == 404


def test_userdata(comfy: Client) -> None:
    """The recorded exchanges of a real server, in their order."""
    file, moved = "/api/userdata/workflows%2Fdemo.json", "/api/userdata/workflows%2Fdemo2.json"
    made = comfy.ask("POST", f"{file}?overwrite=false&full_info=true", b'{"a":1}').json
    assert made["path"] == "workflows/demo.json" and made["size"] == 7 and {"modified", "created"} <= set(made)
    again = comfy.ask("POST", f"{file}?overwrite=false", b'{"a":1}')
    assert (again.status, again.body) == (409, b"File already exists")
    assert comfy.ask("POST", "/userdata/workflows%2Fsub%2Fbaz.json", b"{}").json == "workflows/sub/baz.json"
    listed = comfy.get("/api/userdata?dir=workflows&recurse=true&split=false&full_info=true").json
    assert [each["path"] for each in listed] == ["demo.json", "sub/baz.json"]
    split = comfy.get("/api/userdata?dir=workflows&recurse=true&split=true").json
    assert split == [["demo.json", "demo.json"], ["sub/baz.json", "sub", "baz.json"]]
    assert comfy.get("/userdata?dir=workflows").json == ["demo.json"]
    assert comfy.get("/userdata?dir=nope").status == 404
    assert comfy.get("/userdata").status == 400 and comfy.get("/userdata?dir=..").status == 403
    kinds = [(each["path"], each["type"]) for each in comfy.get("/api/v2/userdata?path=workflows").json]
    assert kinds == [
        ("workflows/sub", "directory"), ("workflows/sub/baz.json", "file"), ("workflows/demo.json", "file"),
    ]  # fmt: skip
    assert comfy.get(file).json == {"a": 1}
    assert comfy.post(f"{file}/move/workflows%2Fdemo2.json?overwrite=false").json == "workflows/demo2.json"
    assert comfy.get(file).status == 404
    comfy.ask("POST", file, b"{}")
    assert comfy.post(f"{file}/move/workflows%2Fdemo2.json?overwrite=false").status == 409
    assert comfy.ask("DELETE", moved).status == 204 and comfy.ask("DELETE", moved).status == 404
    for path in ("..%2F..%2Fetc", "%2Fetc%2Fpasswd", ".", "..%2F..%2Fsecret.png"):
        assert comfy.get(f"/userdata/{path}").status in (403, 404), path
        assert comfy.ask("POST", f"/userdata/{path}", b"x").status in (403, 404), path
    assert comfy.get("/user.css").body == b""
    comfy.ask("POST", "/userdata/user.css", b"a {}")
    assert comfy.get("/user.css").headers["Content-Type"] == "text/css"


def test_settings(comfy: Client, base: Path) -> None:
    assert comfy.get("/settings/Comfy.NoSuch").json is None
    assert comfy.ask("POST", "/api/settings/Comfy.B", b"3", {"Content-Type": "text/plain"}).status == 200
    assert comfy.post("/settings", {"Comfy.A": True}).body == b""
    assert comfy.get("/api/settings").json == {"Comfy.A": True, "Comfy.B": 3}
    assert json.loads((base / "user" / "default" / "comfy.settings.json").read_text()) == {
        "Comfy.A": True,
        "Comfy.B": 3,
    }
    assert comfy.post("/settings", [1]).status == 400 and comfy.ask("POST", "/settings/a", b"{").status == 400
    for path in ("i18n", "workflow_templates", "global_subgraphs"):
        assert comfy.get(f"/api/{path}").json == {}
    assert comfy.get("/global_subgraphs/nope").json is None
    assert comfy.get("/users").json == {"storage": "server", "migrated": True}
    assert comfy.post("/users", {"username": "me"}).status == 400
    assert comfy.get("/api/assets").status == 404


def test_users(tmp_path: Path) -> None:
    """Each user of --multi-user has settings and workflows of their own."""
    with comfy_server(tmp_path, multi_user=True) as comfy:
        assert comfy.get("/users").json == {"storage": "server", "users": {}}
        ann, bea = (comfy.post("/api/users", {"username": name}).json for name in ("Ann", "Béa"))
        assert comfy.post("/users", {"username": "Ann"}).status == 400 and comfy.post("/users", {}).status == 400
        assert comfy.get("/users").json["users"] == {ann: "Ann", bea: "Béa"}
        comfy.post("/settings", {"a": 1}, Comfy_User=ann)
        assert comfy.get("/settings", Comfy_User=bea).json == {}
        assert comfy.get("/settings", Comfy_User=ann).json == {"a": 1}
        for user in ("", "nobody", "..", "__hidden"):
            assert comfy.get("/settings", Comfy_User=user).status == 401, user


def test_the_page_s_own_routes(comfy: Client, base: Path) -> None:
    (base / "input" / ".hidden").write_text("")
    files = comfy.get("/internal/files/input").json
    assert "a.png" not in files and ".hidden" not in files
    assert comfy.get("/internal/files/bogus").status == 400
    assert comfy.get("/internal/files/bogus").json == {"error": "Invalid directory type"}
    raw = comfy.get("/internal/logs/raw").json
    assert set(raw) == {"entries", "size"} and set(raw["size"]) == {"cols", "rows"}
    logging.getLogger("sigmafield.serve").warning("a line")
    assert comfy.get("/internal/logs/raw").json["entries"][-1]["m"] == "[WARNING] a line\n"
    assert isinstance(comfy.get("/api/internal/logs").json, str)
    assert comfy.ask("PATCH", "/internal/logs/subscribe", {"clientId": "x", "enabled": True}).status == 200
    assert comfy.ask("PATCH", "/internal/logs/subscribe", {}).status == 400


def test_without_comfyuis_page_there_are_no_scripts_of_it(comfy: Client) -> None:
    assert comfy.get("/api/extensions").json == [] and comfy.get("/templates/index.json").status == 404


def test_files_of_the_page_have_their_types_and_are_cached_as_in_comfyui(tmp_path: Path) -> None:
    page = tmp_path / "page"
    for name in ("index.html", "assets/a.js", "assets/a.wasm", "assets/a.webp", "extensions/core/b.js", "secret.txt"):
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_text(name)
    with comfy_engine(tmp_path, protocol={"front_end_root": page}, start=False) as (client, _):
        found = {path: client.get(path) for path in ("/", "/assets/a.js", "/assets/a.wasm", "/assets/a.webp")}
        kinds = [each.headers["Content-Type"].split(";")[0] for each in found.values()]
        assert kinds == ["text/html", "text/javascript", "application/wasm", "image/webp"]
        cached = [each.headers["Cache-Control"] for each in found.values()]
        assert cached == ["no-store, must-revalidate", "no-cache", "no-cache", "public, max-age=86400"]
        assert "default-src 'self'" in found["/"].headers["Content-Security-Policy"]
        lost = {path: client.get(path) for path in ("/assets/b.webp", "/assets/b.js", "/assets/..%2F..%2Flock")}
        assert [each.status for each in lost.values()] == [404] * 3
        cached = [each.headers["Cache-Control"] for each in list(lost.values())[:2]]
        assert cached == ["public, max-age=3600", "no-cache"]
        assert client.get("/extensions").json == ["/extensions/core/b.js"]
        assert client.get("/docs/KSampler/en.md").status in (200, 404)


def test_owners_of_tokens_do_not_meet(tmp_path: Path) -> None:
    """Each sees its own files, settings and workflows."""
    with comfy_server(tmp_path, tokens={"alice": ALICE, "bob": BOB}) as client:
        alice, bob = (replace(client, headers={"Authorization": f"Bearer {token}"}) for token in (ALICE, BOB))
        assert client.get("/view?filename=a.png&type=input").status == 401
        assert upload(alice, png(), "mine.png").status == 200
        assert alice.get("/view?filename=mine.png&type=input").status == 200
        assert bob.get("/view?filename=mine.png&type=input").status == 404
        alice.post("/settings", {"a": 1})
        alice.ask("POST", "/userdata/w.json", b"{}")
        assert bob.get("/settings").json == {} and bob.get("/userdata/w.json").status == 404
        assert bob.get(f"/userdata/{quote('../owner-alice/w.json', safe='')}").status == 403
        logging.getLogger("sigmafield.serve").warning("a line")
        assert alice.get("/internal/logs/raw").json["entries"] == []
        assert str(tmp_path) not in alice.get("/internal/folder_paths").body.decode()


def test_directories_are_where_the_flags_say(tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text("other:\n  base_path: elsewhere\n  is_default: true\n  loras: loras\n  odd: odd\n")
    settings = FileSettings(
        base_directory=tmp_path / "base", output_directory=tmp_path / "saved", temp_directory=tmp_path / "tmp",
        extra_model_paths_config=(extra,),
    )  # fmt: skip
    here = make_directories(settings, tmp_path / "jobs", None)
    assert here.input == tmp_path / "base" / "input" and here.output == tmp_path / "saved"
    assert here.temp == tmp_path / "tmp" / "temp" and here.user == tmp_path / "base" / "user"
    assert here.kind_of("loras") == [
        tmp_path / "elsewhere" / "loras", tmp_path / "base" / "models" / "loras", tmp_path / "saved" / "loras",
    ]  # fmt: skip
    assert "odd" in here.models and here.input.is_dir()
    with pytest.raises(LookupError):
        here.kind_of("nope")
    with pytest.raises(ValueError, match="max_upload_size"):
        FileSettings(max_upload_size=0)
