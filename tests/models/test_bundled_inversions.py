"""Textual inversions within LoRA files: a prompt that names one reads the vectors in the file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sigmafield as sf
from command_line import run
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes.loaders import lora_loader
from sigmafield.models.bundle import Pipeline
from sigmafield.models.lora.strengths import Loras
from small_network import shipped_model

pytestmark = pytest.mark.usefixtures("few_channels")

SIZE = (16, 16)
PROMPT = "red (embedding:my_style:1.2) heart"


class Model:
    """A model, where it is loaded from, and files for it.

    Args:
        name: A directory, or "tiny".
        root: Where files are written.
        pipe: What is loaded from there.
    """

    def __init__(self, name: str, root: Path, pipe: Pipeline) -> None:
        self.name, self.root, self.pipe = name, root, pipe
        widths = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
        self.widths = {
            encoder: next(v.shape[1] for k, v in self.pipe.modules[part].state_dict().items() if "token_emb" in k)
            for encoder, part in widths.items()
            if part in self.pipe.modules
        }

    def load(self, loras: Loras = (), embeddings: Path | None = None) -> Pipeline:
        return sf.load(self.name, device="cpu", loras=loras, embeddings=embeddings)

    def vectors(self, seed: int) -> dict[str, Tensor]:
        """Two random vectors for each encoder."""
        generator = torch.Generator().manual_seed(seed)
        return {part: torch.randn(2, width, generator=generator) / 10 for part, width in self.widths.items()}

    def lora(self, name: str, inversions: dict[str, dict[str, Tensor]], strength: float = 0.1) -> Path:
        """A LoRA that changes one layer, with textual inversions."""
        weight = self.pipe.modules["unet"].get_parameter("conv_out.weight")
        tensors = {"unet.conv_out.diff": torch.full_like(weight, strength)}
        tensors |= {f"bundle_emb.{i}.{part}": v for i, parts in inversions.items() for part, v in parts.items()}
        save_file(tensors, self.root / name)
        return self.root / name

    def folder(self, inversions: dict[str, dict[str, Tensor]]) -> Path:
        """A folder of embeddings."""
        folder = self.root / "embeddings"
        folder.mkdir(exist_ok=True)
        for name, vectors in inversions.items():
            save_file(vectors, folder / f"{name}.safetensors")
        return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Model:
    return Model("tiny", tmp_path, shipped_model())


@pytest.fixture
def xl(sdxl: tuple[Path, object], loaded: Callable[[str], Pipeline], tmp_path: Path) -> Model:
    return Model(str(sdxl[0]), tmp_path, loaded("sdxl"))


@pytest.fixture(params=["tiny", pytest.param("sd1", marks=pytest.mark.slow), "xl"])
def model(request: pytest.FixtureRequest, loaded: Callable[[str], Pipeline], tmp_path: Path) -> Model:
    if request.param == "sd1":
        return Model(str(request.getfixturevalue("sd1")[0]), tmp_path, loaded("sd1"))
    return request.getfixturevalue(request.param)


def image(pipe: Pipeline) -> Tensor:
    recipe = sf.Recipe(PROMPT, steps=1, width=64, height=64, cfg=2.0)
    job = sf.open_job(recipe, pipe)
    return pipe.decode(sf.execute(job).state.x)


def test_vectors_in_a_lora_are_those_of_a_file(model: Model) -> None:
    vectors = model.vectors(1)
    alone, whole = model.lora("alone.safetensors", {}), model.lora("whole.safetensors", {"my style": vectors})
    words = model.folder({"my_style": vectors})
    by_folder, kept = model.load([alone], words), model.pipe.with_loras([whole])
    assert torch.equal(image(kept), image(by_folder))
    read = by_folder.text.encode([PROMPT], SIZE).embeds
    others = (kept.with_loras({whole: (1.0, 0.3)}), pickle.loads(pickle.dumps(kept)), model.load([whole], words))
    for pipe in (kept, *others):
        assert torch.equal(pipe.text.encode([PROMPT], SIZE).embeds, read)  # the folder may have the same
    assert not torch.allclose(kept.text.encode(["red (:1.2) heart"], SIZE).embeds, read)
    for other in (model.pipe, kept.with_loras(()), kept.with_loras([alone])):
        with pytest.raises(ValueError, match="embedding:my_style"):
            other.text.encode([PROMPT], SIZE)


def test_loaders_in_a_row_add_theirs(tiny: Model) -> None:
    """ComfyUI's nodes: each LoRA is added to a model that may have others in its weights."""
    for name in ("a", "b"):
        tiny.lora(f"{name}.safetensors", {name: tiny.vectors(1)})
    context = Context(Folders({"loras": [Path(tiny.root)]}))
    model, clip = NodeModel(tiny.pipe.model, text=tiny.pipe.text), tiny.pipe.text
    for name in ("a", "b"):
        model, clip = lora_loader(model, clip, f"{name}.safetensors", context=context)
    assert clip.bundled.keys() == {"a", "b"} and not tiny.pipe.text.bundled
    clip.encode(["embedding:a embedding:b"], SIZE)
    with pytest.raises(ValueError, match="asks for embedding:c, but .*, and its LoRAs have a, b$"):
        clip.encode(["embedding:c"], SIZE)


def test_they_are_there_at_any_strength(tiny: Model) -> None:
    path = tiny.lora("a.safetensors", {"my style": tiny.vectors(1)})
    want = tiny.pipe.with_loras([path]).text.encode([PROMPT], SIZE)
    got = tiny.pipe.with_loras({path: 0.0}).text.encode([PROMPT], SIZE)
    assert torch.equal(got.embeds, want.embeds)


def test_two_files_may_not_differ(tiny: Model) -> None:
    one, other = ({"a": tiny.vectors(seed)} for seed in (1, 2))
    first, second, again = (tiny.lora(f"{i}.safetensors", own) for i, own in enumerate((one, other, one)))
    assert tiny.pipe.with_loras([first, again]).text.bundled.keys() == {"a"}
    with pytest.raises(ValueError, match=r"0.safetensors and .*1.safetensors have different vectors for embedding:a$"):
        tiny.pipe.with_loras([first, second])
    with pytest.raises(ValueError, match=r"0.safetensors and .*1.safetensors have different vectors for embedding:a$"):
        tiny.load([first, second])
    folder = tiny.folder(other)
    with pytest.raises(ValueError, match=r"embedding:a: .*0.safetensors and .*a.safetensors have different vectors"):
        tiny.load([first], folder).text.encode(["embedding:a"], SIZE)
    tiny.load([first], folder).text.encode(["red heart"], SIZE)  # only where it is asked for
    (folder / "a.safetensors").rename(folder / "a.pt")  # which is not opened
    tiny.load([first], folder).text.encode(["embedding:a"], SIZE)


@pytest.mark.parametrize(
    "name, asked", [("a b", "a_b"), ("a, b", "a__b"), ("wow!", "wow_"), ("v1.5", "v1.5"), ("<x>", "<x>"), ("é\t", "é_")]
)
def test_names_are_words_of_a_prompt(name: str, asked: str, tiny: Model) -> None:
    [vectors] = tiny.vectors(1).values()
    path = tiny.lora("a.safetensors", {name: {"clip_l": vectors}})
    pipe = tiny.pipe.with_loras([path])
    assert list(pipe.text.bundled) == [asked]
    pipe.text.encode([f"red embedding:{asked}, heart", f"embedding:{asked}.safetensors."], SIZE)


@pytest.mark.parametrize("part", ["clip_l", "emb_params", "string_to_param.*"])
def test_names_of_the_only_encoder(part: str, tiny: Model) -> None:
    [vectors] = tiny.vectors(1).values()
    pipe = tiny.pipe.with_loras([tiny.lora("a.safetensors", {"a": {part: vectors[0]}})])
    assert torch.equal(pipe.text.bundled["a"].vectors["clip_l"], vectors[:1])


@pytest.mark.parametrize(
    "key, shape, message",
    [
        ("a b.clip_l", (2, 24), r"another width than the text encoder's: bundle_emb.a b.clip_l \(2×24 for width 160\)"),
        ("a.clip_l", (1, 2, 160), r"another width .*: bundle_emb.a.clip_l \(1×2×160 for width 160\)"),
        ("a.clip_g", (2, 160), "for an encoder that this model does not have: bundle_emb.a.clip_g"),
        ("a.clip_l_out", (2, 160), "for other encoders than clip_l and clip_g: bundle_emb.a.clip_l_out"),
        (".clip_l", (2, 160), "for other encoders than clip_l and clip_g: bundle_emb..clip_l"),
        ("good_one.clip_l", (2, 160), "names are the same in a prompt: bundle_emb.good_one.clip_l"),
    ],
)
def test_vectors_that_do_not_fit(key: str, shape: tuple[int, ...], message: str, tiny: Model) -> None:
    name, _, part = key.rpartition(".")
    good = {"good one": {"clip_l": torch.zeros(1, 160)}}
    path = tiny.lora("a.safetensors", {**good, name: {part: torch.ones(shape)}})
    with pytest.raises(ValueError, match=f"a.safetensors: 1 entry cannot be used: .*{message}"):
        tiny.pipe.with_loras([path])
    pipe = tiny.pipe.with_loras([path], lora_partial=True)
    assert list(pipe.text.bundled) == ["good_one"] and len(pipe.notes) == 1


def test_integers_are_not_vectors(tiny: Model) -> None:
    path = tiny.lora("a.safetensors", {"a": {"clip_l": torch.ones(2, 160, dtype=torch.int64)}})
    with pytest.raises(ValueError, match="1 entry cannot be used: .*bundle_emb.a.clip_l"):
        tiny.pipe.with_loras([path])


def test_both_encoders_need_vectors(xl: Model) -> None:
    vectors = xl.vectors(1)
    path = xl.lora("a.safetensors", {"a": {"clip_l": vectors["clip_l"]}})
    with pytest.raises(ValueError, match=r"embedding:a: .*a.safetensors has vectors for clip_l, and not for clip_g"):
        xl.pipe.with_loras([path]).text.encode(["embedding:a"], SIZE)


def test_the_command_line_knows_them(tiny: Model) -> None:
    path = tiny.lora("a.safetensors", {"my style": tiny.vectors(1)})
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["kind"] == "LoRA" and found["words"] == ["embedding:my_style"]
    assert "words      embedding:my_style" in run("inspect", path).stdout
    out = tiny.root / "a.png"
    done = run("sample", PROMPT, "--steps", 1, "-o", out, "--lora", path)
    assert done.exit_code == 0 and out.exists(), done.stderr
