"""Reads textual inversions: vectors that were learnt for a text encoder, by the names of their files.

Gal et al., arXiv:2208.01618.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from sigmafield.core.registry import near_miss
from sigmafield.models.directory import nearby, opened
from sigmafield.models.text.prompt import no_vectors

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def vectors_of(folder: Path | None, part: str, width: int) -> Callable[[str], Tensor]:
    """Makes `Vocabulary.vectors`: the function from a textual inversion's name to its vectors [n, width].

    Args:
        folder: Folder of the files; None: every name raises ValueError.
        part: The encoder's name in files with vectors for several encoders: clip_l or clip_g.
        width: Width of the encoder's vectors.
    """
    return no_vectors if folder is None else lambda name: read_vectors(find(folder, name), part, width)


def check_folder(folder: str | Path | None) -> Path | None:
    """Returns the folder of textual inversions as a path; raises FileNotFoundError where it does not exist."""
    path = None if folder is None else Path(folder).expanduser()
    if path is not None and not path.is_dir():
        raise FileNotFoundError(f"embeddings '{path}': no such directory{nearby(path)}")
    return path


def find(folder: Path, name: str) -> Path:
    """Finds the file of a name, with or without its suffix, in a folder and those below it.

    Raises:
        ValueError: If the file does not exist, or it is a pickle.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    known: dict[str, Path] = {}
    for path in files:
        if path.suffix == ".safetensors":
            known.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            known.setdefault(path.stem, path)
    stem = name.removesuffix(".safetensors")
    if stem in known:
        return known[stem]
    for path in files:
        if path.suffix in PICKLES and name in (path.stem, path.name):
            raise ValueError(
                f"embedding:{name}: {path.name} is a pickle, which can run any code, and is not opened; "
                "convert it to .safetensors"
            )
    if not known:
        raise ValueError(f"embedding:{name}: there is no .safetensors file in {folder}")
    raise ValueError(f"unknown embedding {name!r} in {folder}{near_miss(stem, known)}")


def read_vectors(path: Path, part: str, width: int) -> Tensor:
    """Reads vectors [n, width] from a file: its tensor `part` or `emb_params`, or its only one.

    Raises:
        ValueError: If the file has other tensors, or vectors of another width.
    """
    tensors = load_file(opened(path))
    key = next((key for key in (part, "emb_params") if key in tensors), None)
    if key is None and len(tensors) == 1 and not tensors.keys() & {"clip_l", "clip_g"}:
        [key] = tensors
    if key is None:
        names = ", ".join(sorted(tensors))
        raise ValueError(f"{path} has {names}; expected {part} or emb_params, or a single tensor of any name")
    vectors = tensors[key]
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or vectors.shape[1] != width:
        shape = "×".join(map(str, vectors.shape))
        raise ValueError(f"{path}: {key} is {shape}, but this text encoder's vectors have width {width}")
    return vectors
