"""Node classes for tests of the executor: small ones that do what the recorded prompts need."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import torch

from sigmafield.comfyui.context import Blocked, Context, Expanded, Shown, Stepped, stepped
from sigmafield.comfyui.declare import NODES, node
from sigmafield.comfyui.from_v1 import v1_definition
from sigmafield.comfyui.graph import link, links
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.values import AnyValue, Image, Latent, LatentDict, Mask
from sigmafield.core.annotations import Range
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Pred
from sigmafield.noise.sources import Keyed
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS

BEFORE = set(all_nodes())
COUNTS: dict[str, int] = {}
"""How often a `Count` node ran, by its word."""

Flow = Annotated[Any, Socket("FLOW")]


@node("StubImage", "probe")
def stub_image(content: str, height: int, width: int, batch_size: int) -> Image:
    """An image of one colour."""
    return torch.full((batch_size, height, width, 3), float(content != "BLACK"))


@node("StubMask", "probe")
def stub_mask(value: float, height: int, width: int, batch_size: int) -> Mask:
    """A mask of one value."""
    return torch.full((batch_size, height, width), value)


@node("TestMakeListNode", "probe")
def make_list(value1: float, value2: float, value3: float) -> Annotated[list[float], Socket("FLOAT", listed=True)]:
    """A list."""
    return [value1, value2, value3]


@node("Seeds", "probe")
def seeds() -> Annotated[list[int], Socket("INT", listed=True)]:
    """Three seeds."""
    return [1, 2, 3]


@node("ProbeOut", "probe", shows=True, takes_lists=True)
def probe_out(a: Sequence[AnyValue]) -> Shown[None]:
    """Says how many values come."""
    return Shown(None, {"text": [str(a)], "n": [len(a)]})


@node("Count", "probe")
def count(word: str, value: AnyValue = None) -> str:
    """Counts how often it runs."""
    COUNTS[word] = COUNTS.get(word, 0) + 1
    return f"{word}{'' if value is None else value}"


@node("Fresh", "probe", fresh=True)
def fresh(word: str) -> str:
    """Runs for each node."""
    return count(word)


@node("Changing", "probe", fingerprint=lambda word: float("nan"))
def changing(word: str) -> str:
    """Always runs again."""
    return count(word)


@node("Block", "probe")
def block(message: str, at: float, value: float) -> Annotated[Any, Socket("FLOAT")]:
    """Blocks one value."""
    return Blocked(message or None) if value == at else value


@node("Broken", "probe")
def broken(value: AnyValue) -> int:
    """Raises."""
    raise RuntimeError(f"no {value}")


@node("Wait", "probe")
async def wait(seconds: float, word: str) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return count(word)


@node("Copies", "probe")
def copies(word: str, n: int) -> Expanded[AnyValue]:
    """Is replaced by a chain of nodes that count."""
    graph = {
        str(k): {"class_type": "Count", "inputs": {"word": word, "value": [str(k - 1), 0] if k else None}}
        for k in range(n)
    }
    return Expanded([str(n - 1), 0], graph)


def sample(latent: LatentDict, seed: int, steps: int, context: Context) -> Stepped[LatentDict]:
    """Samples with a network that always answers 0.3 · x."""
    x = latent["samples"] + torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))
    grid = Grid(torch.linspace(10, 0, steps + 1), VE())
    run = Run(lambda x, sigma, ctx: Pred(x * 0.3), SAMPLERS["dpmpp_2m_sde"], grid, Keyed([seed] * len(x), x.shape))
    last = yield from stepped(run, 10 * x, context)
    return {**latent, "samples": run.result(last)}


@node("Sampling", "probe")
def sampling(latent: Latent, seed: int, steps: Annotated[int, Range(1, 100)], context: Context) -> Stepped[Latent]:
    """Samples."""
    return (yield from sample(latent, seed, steps, context))


@node("Loader", "probe", outputs=("model", "clip", "vae"))
def loader() -> tuple[AnyValue, AnyValue, AnyValue]:
    """Three values."""
    return "model", "clip", "vae"


@node("Sampler", "probe")
def sampler(
    latent_image: Latent, model: AnyValue, negative: AnyValue, positive: AnyValue, steps: int, context: Context
) -> Stepped[Latent]:
    """Samples."""
    return (yield from sample(latent_image, 1, steps, context))


@node("Decoder", "probe")
def decoder(samples: Latent, vae: AnyValue) -> Image:
    """The first three channels."""
    return samples["samples"].movedim(1, -1)[..., :3].sigmoid()


class TestLazyMixImages:
    """Mixes two images, of which only those are computed that the mask shows."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"image1": ("IMAGE", {"lazy": True}), "image2": ("IMAGE", {"lazy": True}), "mask": ("MASK",)}
        }
    )
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "mix"
    __test__ = False

    def check_lazy_status(self, mask, image1, image2):
        needed = ["image1"] if image1 is None and mask.min() < 1 else []
        return needed + (["image2"] if image2 is None and mask.max() > 0 else [])

    def mix(self, mask, image1, image2):
        if image2 is None or image1 is None:
            return (image1 if image2 is None else image2,)
        return (image1 * (1 - mask[..., None]) + image2 * mask[..., None],)


@node("TestVariadicAverage", "probe")
def average(input1: Image, input2: Image) -> Image:
    """The mean of two images."""
    return (input1 + input2) / 2


@node("TestForLoopOpen", "probe", outputs=("flow", "remaining", "value"))
def loop_open(remaining: int, initial_value1: AnyValue) -> tuple[Flow, int, AnyValue]:
    """The beginning of a loop."""
    return "flow", remaining, initial_value1


@node("Less", "probe")
def less(value: int) -> int:
    """One less."""
    return value - 1


@node("Positive", "probe")
def positive(value: int) -> bool:
    """Whether a number is positive."""
    return value > 0


@node("TestForLoopClose", "probe")
def for_close(
    flow_control: Annotated[Any, Socket("FLOW"), Input(more=(("rawLink", True),))],
    initial_value1: AnyValue,
    context: Context,
) -> Expanded[AnyValue]:
    """The end of a loop over a number."""
    me, here = context.graph.nodes[context.node]["inputs"], f"{context.node}.0.0."
    opened = me["flow_control"][0]
    rest = {"flow_control": [opened, 0], "remaining": [f"{here}1", 0], "value": me["initial_value1"]}
    graph = {
        f"{here}1": {"class_type": "Less", "inputs": {"value": [opened, 1]}},
        f"{here}2": {"class_type": "Positive", "inputs": {"value": [f"{here}1", 0]}},
        f"{here}3": {"class_type": "WhileClose", "inputs": {"condition": [f"{here}2", 0], **rest}},
    }
    return Expanded([f"{here}3", 0], graph)


@node("WhileClose", "probe")
def while_close(
    flow_control: Flow, condition: bool, remaining: int, value: AnyValue, context: Context
) -> Expanded[AnyValue]:
    """The end of a loop: what lies between is copied while the condition holds."""
    if not condition:
        return Expanded(value, {})
    nodes = context.graph.nodes
    opened = nodes[context.node]["inputs"]["flow_control"][0]
    inside = {opened, context.node}
    while True:
        more = {
            name
            for name in _above(context.node, nodes)
            if any(each.node in inside - {context.node} for each in links(nodes[name]).values())
        }
        if more <= inside:
            break
        inside |= more

    def named(value):
        found = link(value)
        if found is None or found.node not in inside:
            return value
        return ["Recurse" if found.node == context.node else found.node, found.slot]

    copies = {
        "Recurse" if name == context.node else name: {
            "class_type": nodes[name]["class_type"],
            "inputs": {key: named(each) for key, each in nodes[name]["inputs"].items()},
            "override_display_id": context.graph.display(name),
        }
        for name in sorted(inside)
    }
    copies[opened]["inputs"] |= {"remaining": remaining, "initial_value1": value}
    return Expanded(["Recurse", 0], copies)


def _above(name, nodes):
    found, waiting = set(), [name]
    while waiting:
        for each in links(nodes[waiting.pop()]).values():
            if each.node not in found:
                found.add(each.node)
                waiting.append(each.node)
    return found | {name}


PROBES = {name: NODES[name] for name in set(NODES) - BEFORE}
PROBES["TestLazyMixImages"] = v1_definition("TestLazyMixImages", TestLazyMixImages)
for name in set(NODES) - BEFORE:
    NODES.remove(name)
CLASSES = {**all_nodes(), **PROBES}
