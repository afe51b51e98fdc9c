"""How other programs convert the workflows of ComfyUI's templates to prompts, compared with sigmafield.

    python benchmarks/client_conversions.py                # all templates
    python benchmarks/client_conversions.py --first 50     # the first of them, for a look

comfy-cli and comfyui-autograph are installed in environments of their own, as `make test-clients` does. Both ask the
server for its classes, so they run against `sigmafield serve --comfyui`, in whose folders there is an empty file for
each model and image that a template names; comfy-cli prints the prompt that it would post. Two prompts are equal if
they have the same nodes with the same inputs; titles and ids are not compared.

Classes that the server does not offer, of paid services and of further packs, are added to its answer to
`/object_info`, and sigmafield gets them as well: from `--object-info`, the answer of a ComfyUI that has them, or else
as the templates themselves use them, see `template_classes`.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "clients"))

import cyclopts
from environments import Environment, python
from rich.console import Console
from rich.table import Table
from template_classes import definitions

from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.environment import DIRECTORIES
from sigmafield.comfyui.graph import link
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.workflow.offered import offered_classes

CLI = """
import contextlib, io, json, sys
from comfy_cli.__main__ import main
url, folder, out = sys.argv[1:4]
names, made = sys.argv[4:], {}
host, port = url.removeprefix("http://").split(":")
for name in names:
    printed = io.StringIO()
    sys.argv = ["comfy", "--skip-prompt", "--no-json", "--where", "local", "run", "--workflow",
                f"{folder}/{name}.json", "--print-prompt", "--host", host, "--port", port]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except (SystemExit, Exception):
            pass
    text = printed.getvalue()
    try:
        made[name] = json.loads(text[text.index("{"):])
    except ValueError:
        made[name] = None
json.dump(made, open(out, "w"))
"""
"""What runs in comfy-cli's environment: one process for all workflows, since it takes a second to start."""

AUTOGRAPH = """
import json, sys
from autograph import Flow, NodeInfo
url, folder, out = sys.argv[1:4]
known, made = NodeInfo("fetch", server_url=url), {}
for name in sys.argv[4:]:
    try:
        Flow(f"{folder}/{name}.json", node_info=known).convert().save(f"{out}.one")
        made[name] = json.load(open(f"{out}.one"))
    except Exception:
        made[name] = None
json.dump(made, open(out, "w"))
"""

CLI_NAME, GRAPH_NAME = "comfy-cli==1.23.0", "comfyui-autograph==2.3.0"

HIDDEN = ("SaveVideo", "codec")
"""An input that the page sends and that is not in /object_info."""

Prompts = Mapping[str, Any]
Classes = Mapping[str, Mapping[str, Any]]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server's address."""
    words = [sys.executable, "-m", "sigmafield", "serve", "--comfyui", "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("listening at ").strip()
        finally:
            process.terminate()


@contextmanager
def with_classes(server: str, more: Classes) -> Iterator[str]:
    """The address of a server that answers as another one does, and says that it has further classes."""
    with urllib.request.urlopen(f"{server}/object_info") as answer:
        classes = json.dumps({**more, **json.load(answer)}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.removeprefix("/api") == "/object_info":
                body, kind = classes, "application/json"
            else:
                with urllib.request.urlopen(f"{server}{self.path}") as answer:
                    body, kind = answer.read(), answer.headers["Content-Type"]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()


def theirs(here: Environment, script: str, folder: Path, names: list[str]) -> Prompts:
    """The prompts that a script in an environment makes, some workflows at a time."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        program, out = Path(work) / "convert.py", Path(work) / "made.json"
        program.write_text(script)
        for k in range(0, len(names), 20):
            here.run("python", program, here.url, folder, out, *names[k : k + 20])
            made |= json.loads(out.read_text())
    return made


def forms(prompt: Any, lenient: bool = False) -> Counter[str]:
    """A prompt without ids: what each node is, with what it is linked to in place of links.

    Args:
        prompt: The prompt.
        lenient: Whether values of classes that the server does not offer, and SaveVideo's hidden input, are left out.
    """
    offered, made = all_nodes(), dict[str, str]()

    def form(id: str) -> str:
        if id not in made:
            node, inputs = prompt[id], dict[str, Any]()
            made[id] = ""  # a cycle ends here
            for name, value in sorted(node.get("inputs", {}).items()):
                source = link(value)
                if source is not None and source.node in prompt:
                    inputs[name] = [form(source.node), source.slot]
                elif not (lenient and (node["class_type"] not in offered or (node["class_type"], name) == HIDDEN)):
                    inputs[name] = value
            text = json.dumps([node["class_type"], inputs])
            made[id] = hashlib.sha256(text.encode()).hexdigest()
        return made[id]

    return Counter(map(form, prompt))


def difference(mine: Any, other: Any) -> str:
    """How another prompt differs from ours, in a few words; "" for an equal one."""
    if forms(mine) == forms(other):
        return ""
    if forms(mine, lenient=True) == forms(other, lenient=True):
        return "in values of classes that are not ours"
    if Counter(each["class_type"] for each in mine.values()) != Counter(each["class_type"] for each in other.values()):
        return "in nodes"
    return "in values or links"


def table(mine: Prompts, others: Mapping[str, Prompts], total: int) -> Table:
    """How many workflows each program converts, and how many prompts are equal to ours."""
    made = Table("", "sigmafield", *others, title=f"{len(mine)} of {total} templates")
    both = {who: {name for name, prompt in found.items() if prompt} for who, found in others.items()}
    made.add_row("converted to a prompt", str(len(mine)), *(str(len(each)) for each in both.values()))
    kinds = {who: Counter(difference(mine[name], others[who][name]) for name in names) for who, names in both.items()}
    made.add_row("equal to sigmafield's", "", *(str(each[""]) for each in kinds.values()))
    for kind in sorted({kind for each in kinds.values() for kind in each} - {""}):
        made.add_row(f"differ {kind}", "", *(str(each[kind]) for each in kinds.values()))
    return made


def stand_ins(folder: Path, prompts: Prompts) -> None:
    """Make an empty file for each model and image that prompts name, in all folders where it may be."""
    names = {
        value
        for prompt in prompts.values()
        for node in prompt.values()
        for value in node["inputs"].values()
        if isinstance(value, str) and re.fullmatch(r"[^\n\\:]{1,150}\.(safetensors|ckpt|pth|png|jpe?g|webp|mp4)", value)
    }
    for kind in (*DIRECTORIES, "input"):
        for name in names:
            path = folder / ("input" if kind == "input" else f"models/{DIRECTORIES[kind][0]}") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def workflows(folder: Path) -> dict[str, Any]:
    """The workflows of a folder, by name."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    return {name: each for name, each in found.items() if isinstance(each, dict) and "nodes" in each}


def main(*, first: int | None = None, object_info: Path | None = None, save: Path | None = None) -> None:
    """Convert, compare and print.

    Args:
        first: Number of templates that are compared; None is all.
        object_info: A file with the classes that the server does not offer; None reads them from the templates.
        save: A file for all prompts, to look at differences.
    """
    folder = Path(str(files("comfyui_workflow_templates_json") / "templates"))
    found, known = workflows(folder), offered_classes()
    names, total = list(found)[:first], len(found)
    given = definitions(list(found.values()), known) if object_info is None else json.loads(object_info.read_text())
    classes = {**given, **known}
    mine = {name: to_prompt(found[name], classes) for name in names}
    with tempfile.TemporaryDirectory() as work:
        stand_ins(Path(work), mine)
        with server(Path(work)) as plain, with_classes(plain, classes) as url:
            cli, graph = python("comfy-cli", url, CLI_NAME), python("comfyui-autograph", url, GRAPH_NAME)
            others = {CLI_NAME: theirs(cli, CLI, folder, names), GRAPH_NAME: theirs(graph, AUTOGRAPH, folder, names)}
    if save is not None:
        save.write_text(json.dumps({"sigmafield": mine, **others}))
    Console(width=110).print(table(mine, others, total))
    for who, made in others.items():
        for name in names:
            if made.get(name) and (kind := difference(mine[name], made[name])):
                print(f"{who}: {name}: {kind}")


if __name__ == "__main__":
    cyclopts.run(main)
