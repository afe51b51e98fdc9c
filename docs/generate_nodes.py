"""The tables of the page about nodes, from their definitions: a hook of mkdocs, run by `make docs`."""

from __future__ import annotations

from itertools import groupby

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from page_parts import block, grid

from sigmafield.comfyui.definition import Definition, Slot
from sigmafield.comfyui.left_out import reasons
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.pack.classes import offered


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables where the pages have their marks."""
    if page.file.src_uri == "comfyui-pack.md":
        return markdown.replace("<!-- pack -->", pack())
    if page.file.src_uri != "nodes.md":
        return markdown
    return markdown.replace("<!-- classes -->", classes()).replace("<!-- left out -->", left_out())


def classes() -> str:
    """A table of the node classes of each category."""
    nodes = sorted(all_nodes().values(), key=lambda each: (each.category, each.name))
    parts: list[str] = []
    for category, group in groupby(nodes, lambda each: each.category):
        rows = [(f"`{each.name}`", each.doc, _inputs(each), _outputs(each)) for each in group]
        parts += [f"### {category.strip('_')}", block(grid(("class", "what it does", "inputs", "outputs"), rows))]
    return "\n\n".join(parts)


def pack() -> str:
    """A table of the node classes that ComfyUI gets."""
    rows = [(f"**{each.title}**<br>`{each.name}`", each.doc, _inputs(each), _outputs(each)) for each in offered()]
    return block(grid(("node", "what it does", "inputs", "outputs"), rows))


def _inputs(node: Definition) -> str:
    return ", ".join(map(_input, node.inputs))


def _input(slot: Slot) -> str:
    default = slot.options.get("default")
    return f"{slot.name}{'' if slot.required else '?'}{'' if default in (None, '') else f' = {default}'}".replace(
        "|", "\\|"
    )


def _outputs(node: Definition) -> str:
    return ", ".join(each.name for each in node.outputs)


def left_out() -> str:
    """A table of the classes that are not offered."""
    found = reasons()
    rows = [
        (", ".join(f"`{name}`" for name, each in found.items() if each == why), why)
        for why in dict.fromkeys(found.values())
    ]
    return block(grid(("classes", "why"), rows))
