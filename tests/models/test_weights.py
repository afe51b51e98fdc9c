"""Files of weights: what their headers say, every type against its definition, and bytes that are no such files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import quantise
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sigmafield.models.weights.files import Weights, open_weights
from sigmafield.models.weights.kinds import Entry, ggml_quantisation, quantisation
from sigmafield.models.weights.packed import Packed, unpacked

gguf = pytest.importorskip("gguf")
pytest.importorskip("diffusers")

TYPES = [
    name for name in gguf.GGMLQuantizationType.__members__ if name[:1] in "QI" and name not in ("Q8_1", "Q8_K", "Q1_0")
    and not name[1:].isdecimal()
]  # fmt: skip
KEPT = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def read(path: Path) -> dict[str, Any]:
    stored = open_weights([path])
    return dict(stored.read(stored.header))


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_what_gguf_makes_of_them(kind: str, tmp_path: Path) -> None:
    data = quantise.blocks((3, 512), kind)
    value = read(quantise.write_gguf(tmp_path / "x.gguf", {"a": data}, {"a": kind}))["a"]
    assert isinstance(value, Packed) == (kind in KEPT)
    assert torch.equal(unpacked(value), quantise.gguf_numbers(data, kind)) and value.shape == (3, 512)
    if isinstance(value, Packed):
        assert value.codes.nbytes == data.nbytes
        rows = torch.tensor([2, 0])
        assert torch.equal(unpacked(value.rows(rows)), quantise.gguf_numbers(data, kind)[rows])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_plain_weights_of_gguf(dtype: torch.dtype, tmp_path: Path) -> None:
    want = torch.randn(4, 3, 2, 2).to(dtype)
    got = read(quantise.write_gguf(tmp_path / "x.gguf", {"a": want}, {}))["a"]
    assert torch.equal(got, want) and got.dtype == dtype


def test_a_weight_cut_into_other_rows_has_its_shape(tmp_path: Path) -> None:
    data = quantise.blocks((9, 256), "Q4_K")
    kinds, shape = {"a": "Q4_K"}, (64, 4, 3, 3)
    value = read(quantise.write_gguf(tmp_path / "x.gguf", {"a": data}, kinds, {"a": shape}))["a"]
    assert torch.equal(unpacked(value), quantise.gguf_numbers(data, "Q4_K").reshape(shape))
    with pytest.raises(ValueError, match="lie across its rows"):
        value.rows(torch.tensor([1]))
    with pytest.raises(ValueError, match="a is not 64×4×3×2 of Q4_K"):
        read(quantise.write_gguf(tmp_path / "y.gguf", {"a": data}, kinds, {"a": (64, 4, 3, 2)}))


@pytest.mark.parametrize("spelling", [quantise.old, quantise.new, quantise.marked])
@pytest.mark.parametrize("per_row", [False, True], ids=["tensor", "row"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)], ids=["matrix", "kernel"])
def test_scaled_weights_are_data_times_scale(spelling: Any, per_row: bool, shape: Any, tmp_path: Path) -> None:
    data, scale, want = quantise.scaled(torch.randn(shape), per_row)
    path = quantise.save(tmp_path / "x.safetensors", {**spelling("a.b", data, scale), "scaled_fp8": torch.zeros(0)})
    stored = open_weights([path])
    assert stored.shapes == {"a.b.weight": shape}
    assert str(stored.files[0].quantisation) == f"float8_e4m3fn, a scale per {'row' if per_row else 'tensor'}"
    [(_, value)] = stored.read(["a.b.weight"])
    assert torch.equal(unpacked(value), want)
    assert torch.equal(unpacked(value.rows(torch.tensor([5, 1]))), want[[5, 1]])


def test_integers_are_read_if_the_file_says_what_they_are(tmp_path: Path) -> None:
    data, scale, want = quantise.scaled(torch.randn(6, 4), True, torch.int8)
    value = read(quantise.save(tmp_path / "x.safetensors", quantise.marked("a", data, scale)))["a.weight"]
    assert torch.equal(unpacked(value), want)
    layers = {"layers": {"a": {"format": "int8_tensorwise"}}}
    metadata = {"_quantization_metadata": json.dumps(layers)}
    value = read(quantise.save(tmp_path / "y.safetensors", quantise.new("a", data, scale), metadata))["a.weight"]
    assert torch.equal(unpacked(value), want)
    with pytest.raises(ValueError, match=r"is quantised, by 8-bit integers \(a.weight\), which is not supported"):
        open_weights([quantise.save(tmp_path / "z.safetensors", quantise.new("a", data, scale))])


def test_a_scale_of_a_wider_weight_is_used_too(tmp_path: Path) -> None:
    """As ComfyUI does in its first spelling, in which every layer of a file has a scale."""
    weights = {"a.weight": torch.full((2, 2), 3.0), "a.scale_weight": torch.tensor(2.0)}
    assert torch.equal(read(quantise.save(tmp_path / "x.safetensors", weights))["a.weight"], torch.full((2, 2), 6.0))


E = torch.float8_e4m3fn
UNSUPPORTED: dict[str, tuple[dict[str, Tensor], str]] = {
    "nf4": ({"a.weight": torch.ones(8, 1).byte(), "a.weight.absmax": torch.ones(1)}, "bitsandbytes' 4 bits"),
    "bnb8": ({"a.weight": torch.ones(8, 1).char(), "a.SCB": torch.ones(8)}, "bitsandbytes' 8 bits"),
    "svdquant": ({"a.qweight": torch.ones(8, 1).char(), "a.wscales": torch.ones(8)}, "SVDQuant"),
    "gptq": ({"a.qweight": torch.ones(8, 1).int(), "a.qzeros": torch.ones(8).int()}, "GPTQ or AWQ"),
    "nvfp4": (
        {"a.weight": torch.ones(8, 1).byte(), "a.weight_scale": torch.ones(8, 1), "a.weight_scale_2": torch.ones(1)},
        "NVFP4",
    ),
    "quanto": ({"a.weight._data": torch.ones(8, 1).char(), "a.weight._scale": torch.ones(8, 1)}, "quanto"),
    "blocks": ({"a.weight": torch.ones(8, 4).to(E), "a.weight_scale": torch.ones(2, 2)}, "with a scale per block"),
    "mx": ({"a.weight": torch.ones(8, 4).to(E), "a.weight_scale": torch.ones(8, 1).byte()}, "with a scale per block"),
    "int8": ({"a.weight": torch.ones(8, 4).char()}, "8-bit integers"),
    "bytes": ({"a.weight": torch.ones(8, 4).byte()}, "u8"),
    "both": (
        {"a.weight": torch.ones(8, 4), "a.weight_scale": torch.ones(1), "a.scale_weight": torch.ones(1)},
        "two scales",
    ),
}  # fmt: skip


@pytest.mark.parametrize("weights, what", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_is_not_read_is_named(weights: dict[str, Tensor], what: str, tmp_path: Path) -> None:
    path = quantise.save(tmp_path / "x.safetensors", weights)
    with pytest.raises(ValueError, match=rf"{path} is quantised, by .*{what}.*, which is not supported; supported: "):
        open_weights([path])


@pytest.mark.parametrize(
    "form, what",
    [
        ({"format": "mxfp8"}, "mxfp8"),
        ({"format": "int8_blockwise", "group_size": 128}, "int8_blockwise"),
        ({"format": "int8_tensorwise", "convrot": True}, "int8_tensorwise with convrot"),
    ],
)
def test_formats_that_are_not_read_are_named(form: dict[str, Any], what: str) -> None:
    header = {"a.weight": Entry("F8_E4M3", (8, 4)), "a.weight_scale": Entry("F32", ())}
    told = quantisation(header, {"a": form})
    assert told.quantised and told.unsupported == f"{what} (a.weight)" == str(told)


def test_what_a_header_says() -> None:
    header = {"a.weight": Entry("F16", (8, 4)), "a.bias": Entry("F32", (8,)), "b.weight": Entry("F8_E4M3", (4, 2))}
    told = quantisation(header)
    assert told.kinds == {"F16": 32, "float8_e4m3fn": 8} and told.quantised and str(told) == "F16, float8_e4m3fn"
    assert not quantisation({"a.weight": Entry("BF16", (8, 4))}).quantised and not quantisation({}).quantised
    assert str(ggml_quantisation({"a": Entry("Q4_K", (256, 2)), "b": Entry("F32", (3,))})) == "Q4_K"


def as_written(header: bytes, data: bytes) -> bytes:
    """A safetensors file with any header."""
    return struct.pack("<Q", len(header)) + header + data


def gguf_with(version: int, tensors: int, fields: int, rest: bytes) -> bytes:
    """The beginning of a GGUF file, and any bytes after it."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 4)
SHAPES = st.lists(st.integers(-1, 5) | st.just(2**40), max_size=3)
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F8_E4M3", "U8", "I8", "F4", "F8_E8M0", "X"]),
        "shape": SHAPES,
        "data_offsets": st.tuples(st.integers(-1, 32), st.integers(0, 2**40) | st.integers(0, 32)),
    }
)
NAMES = st.sampled_from(["a.weight", "a.weight_scale", "a.scale_weight", "a.comfy_quant", "b", "scaled_fp8"])
HEADERS = st.dictionaries(NAMES, TENSORS | st.none() | st.integers(), max_size=4) | st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
METADATA = st.dictionaries(
    st.sampled_from(["_quantization_metadata", "format"]), st.text() | st.just('{"layers": [1]}')
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Bytes that begin as one of the formats, or not."""
    rest = draw(st.binary(max_size=64))
    return draw(
        st.just(rest)
        | st.builds(gguf_with, st.sampled_from([2, 3, 2**16]), NUMBERS, NUMBERS, st.just(rest))
        | st.builds(as_written, HEADERS.map(lambda header: json.dumps(header).encode()), st.just(rest))
        | st.builds(as_written, METADATA.map(lambda of: json.dumps({"__metadata__": of}).encode()), st.just(b""))
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytes") / "x"


def opened(path: Path, content: bytes) -> Weights | None:
    """What a file of these bytes is read as; None if it is refused as documented, in one line that names it."""
    path.write_bytes(content)
    try:
        stored = open_weights([path])
        assert all(value.shape == stored.shapes[name] for name, value in stored.read(stored.header))
        return stored
    except ValueError as error:
        why = str(error)
    assert str(path) in why and "\n" not in why
    return None


@given(content=files())
@example(content=b"")
@example(content=as_written(b"[" * 5000, b""))
@example(content=gguf_with(3, 0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<II", 9, 9) * 400))  # within another
@example(content=gguf_with(3, 0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**60)))  # bytes
@example(content=gguf_with(3, 0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 2**22) + b"\0" * 99))
@example(content=gguf_with(3, 1, 0, struct.pack("<Q", 1) + b"a" + struct.pack("<IQQIQ", 2, 2**63, 2, 0, 0)))  # shape
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(place: Path, content: bytes) -> None:
    opened(place, content)


@given(at=st.integers(0, 10**6), new=st.binary(min_size=1, max_size=8), end=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_any_damage_to_a_file(place: Path, whole: dict[str, bytes], kind: str, at: int, new: bytes, end: int) -> None:
    content = bytearray(whole[kind])
    at %= len(content)
    content[at : at + len(new)] = new
    opened(place, bytes(content[: len(content) - end % 4 * (end % len(content)) // 4]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    data, scale, _ = quantise.scaled(torch.randn(6, 4), True)
    marked = quantise.save(folder / "a", quantise.marked("a", data, scale))
    plain = {"a": quantise.blocks((2, 256), "Q4_K"), "b": torch.ones(2, 3)}
    blocks = quantise.write_gguf(folder / "b", plain, {"a": "Q4_K"}, {"a": (4, 128)})
    assert opened(marked, marked.read_bytes()) and opened(blocks, blocks.read_bytes())
    return {"safetensors": marked.read_bytes(), "gguf": blocks.read_bytes()}
