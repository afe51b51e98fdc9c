"""Bottom layers import no top layer, and `import sigmafield` needs no optional package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sigmafield"

LAYERS = [
    ["types", "maths", "resize", "ranges", "language"],
    ["levels", "grid", "schedules", "param", "families", "noise", "shaped_noise", "bridges", "brownian"],
    ["samplers"],
    ["run", "lcm_upscale", "checkpoint", "images", "latents"],
    ["guidance", "spatial"],
    ["ksampler"],
    ["mixing_ksampler"],
    ["models"],
    ["hints", "tiling", "recipe"],
    ["single"],
    ["demofusion"],
    ["job"],
    ["lab"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OPTIONAL = {"diffusers", "transformers", "accelerate", "matplotlib", "aiohttp", "torchsde", "ray", "peft"}
DIFFUSERS = ("models/diffusers/", "models/diffusers_scheduler.py")  # imported where they are asked for
CORE = {"torch", "numpy", "scipy", "safetensors", "jaxtyping", "docstring_parser", "PIL", "typer", "rich"}
FILES = sorted(
    path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py") or path.parent != SOURCE
)


def part_of(path):
    """The first name below the package: the layer's entry that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path, run_time_only=False):
    """(module, at top level?) of every import in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    checking = {
        n for b in ast.walk(tree) if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.dump(b.test) for n in ast.walk(b)
    }
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module, node in tree.body


def test_every_module_has_a_layer():
    assert {part_of(path) for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_layers(path):
    own = LEVEL[part_of(path)]
    for module, at_top in imports(path):
        root, _, rest = module.partition(".")
        if root == "sigmafield" and rest:
            other = rest.partition(".")[0]
            assert LEVEL[other] <= own, f"{path.name} (layer {own}) imports {module} (layer {LEVEL[other]})"
        elif root in OPTIONAL:
            assert path.relative_to(SOURCE).as_posix().startswith(DIFFUSERS) or not at_top, (
                f"{path.name} imports the optional {module} at its top"
            )
        else:
            assert root == "sigmafield" or root in CORE or root in sys.stdlib_module_names, (
                f"{path.name} imports {module}"
            )


def test_import_needs_the_core_alone():
    """Everything public but load("a diffusers directory") imports no optional package."""
    code = (
        "import sys, sigmafield, sigmafield.cli\n"
        "for name in sigmafield.__all__: getattr(sigmafield, name)\n"
        f"print(sorted({OPTIONAL!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
