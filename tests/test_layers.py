"""Rooms import only what CONTRIBUTING's table allows, and `import sigmafield` needs no optional package."""

import ast
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from forked import called

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli where it is needed
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sigmafield"
FILES = sorted(SOURCE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# these modules are imported only when they are asked for, and may import optional packages at their top
LATE = (
    "models/diffusers/",
    "models/single_file/convert.py",
    "diffusers_scheduler.py",
    "serve/http/",
    "serve/comfyui/",
    "client/",
)
PUBLIC = {"_replace", "_asdict", "_fields", "_make"}  # a named tuple's, public by its documentation


def short(path):
    return path.relative_to(SOURCE).as_posix()


def room_of(path):
    """The folder below the package that a file belongs to; a file at the top is a room of its own."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@cache
def table():
    """room → rooms that it may import, from the table "Room | May import" of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    body = re.search(r"^\| *Room *\| *May import *\|\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert body, "CONTRIBUTING.md has no table with the columns Room and May import"
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in body[1].splitlines()]
    everything = {name for rooms, _ in rows for name in re.findall(r"`(\w+)`", rooms)}
    allowed, above = {}, set()
    for rooms, words in rows:
        names, own = set(re.findall(r"`(\w+)`", words)), re.findall(r"`(\w+)`", rooms)
        if words.startswith("everything"):
            names = (above if words.startswith("everything above") else everything) - names
        allowed |= {room: names | {room} for room in own}
        above = above | set(own)
    return allowed


class Read(ast.NodeVisitor):
    """What the laws ask about a file, read once.

    modules: (module, at the top level?) of every import, in functions and under TYPE_CHECKING as well.
    names: The private names that it defines: functions, classes, variables, fields, attributes that it sets.
    attributes: The names of all attributes that it reads or sets.
    """

    def __init__(self, path):
        self.path, self.modules, self.names, self.attributes = path, [], set(), set()
        tree = ast.parse(path.read_text("utf-8"))
        self.top = set(map(id, tree.body))
        self.visit(tree)
        self.names = {name for name in self.names if private(name)}

    def visit_Import(self, node):
        self.modules += [(alias.name, id(node) in self.top) for alias in node.names]

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"{self.path}: imports are absolute"
        self.modules += [(f"{node.module}.{alias.name}", id(node) in self.top) for alias in node.names]

    def visit_FunctionDef(self, node):
        self.names.add(node.name)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node):
        self.names.add(node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node):
        self.names.add(node.name)
        self.generic_visit(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.id)

    def visit_Attribute(self, node):
        self.attributes.add(node.attr)
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node):
        pass


read = cache(Read)


def names_of(path):
    return read(path).names


def modules(path):
    return read(path).modules


@cache
def file_of(module):
    """The file of ours that a dotted name is in: the longest part of it that is a module or a package."""
    parts = module.split(".")
    if parts[0] != "sigmafield":
        return None
    for n in range(len(parts), 0, -1):
        path = SOURCE.joinpath(*parts[1:n])
        for found in (path.with_suffix(".py") if n > 1 else path / "__init__.py", path / "__init__.py"):
            if found.exists():
                return found
    raise AssertionError(f"no file has {module}")


@cache
def graph():
    """file → files of ours that it imports."""
    found = {path: {file_of(module) for module, _ in modules(path)} - {None} for path in FILES}
    return {path: others - {path} for path, others in found.items()}


def circles():
    """The strongly connected components of more than one file, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in graph()[v]:
            if w not in index:
                visit(w)
            if w in stack:
                low[v] = min(low[v], low[w])
        if low[v] == index[v]:
            component = stack[stack.index(v) :]
            del stack[stack.index(v) :]
            if len(component) > 1:
                found.append(sorted(map(short, component)))

    for path in FILES:
        if path not in index:
            visit(path)
    return found


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in FILES} <= table().keys()


def test_a_file_imports_only_what_its_room_may():
    wrong = {
        f"{short(path)} imports {short(other)}; {room_of(path)} may import {', '.join(sorted(table()[room_of(path)]))}"
        for path in FILES
        for other in graph()[path]
        if room_of(other) not in table()[room_of(path)]
    }
    assert sorted(wrong) == []


def test_no_files_import_each_other_in_a_circle():
    assert circles() == []


def test_private_names_stay_in_their_file():
    """An underscored name is neither imported from a file of ours nor read from an object of another file's."""
    homes = {}
    for path in FILES:
        for name in names_of(path):
            homes.setdefault(name, set()).add(path)
    for path in FILES:
        imported = [m for m, _ in modules(path) if file_of(m) and private(m.rpartition(".")[2])]
        taken = {name for name in read(path).attributes if private(name) and path not in homes.get(name, {path})}
        assert (imported, taken) == ([], set()), short(path)


def test_tests_touch_no_private_names():
    ours, found = set().union(*map(names_of, FILES)), []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if not ours & set(re.findall(r"\b_\w+", path.read_text("utf-8"))):  # most have none to be read for
            continue
        taken = {module.rpartition(".")[2] for module, _ in modules(path) if module.startswith("sigmafield")}
        found += [(path.name, name) for name in sorted((read(path).attributes | taken) & ours - names_of(path))]
    assert found == []


def private(name):
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


MODULES = {"markdown_it_py": "markdown_it", "openexr": "OpenEXR", "pillow": "PIL", "pot": "ot", "pyyaml": "yaml"}
"""Modules whose packages have other names."""


def packages(requirements):
    """The modules of requirements."""
    names = (re.split(r"[\[<>=!~; ]", line)[0].lower().replace("-", "_") for line in requirements)
    return {MODULES.get(name, name) for name in names} - {"sigmafield"}


CORE = packages(PROJECT["dependencies"])
EXTRAS = PROJECT["optional-dependencies"].keys() - {"all", "docs", "test"}
OPTIONAL = packages(line for extra in EXTRAS for line in PROJECT["optional-dependencies"].get(extra, []))


def test_optional_packages_are_imported_where_they_are_used():
    for path in FILES:
        for module, at_top in modules(path):
            root = module.partition(".")[0]
            if root in OPTIONAL:
                assert not at_top or short(path).startswith(LATE), f"{short(path)} imports {root} at its top"
            else:
                known = root == "sigmafield" or root in CORE or root in sys.stdlib_module_names
                assert known, f"{short(path)} imports {root}, of which pyproject.toml says nothing"


def optional_that_are_loaded():
    """Of the optional packages, those that everything public has imported."""
    import sigmafield
    import sigmafield.cli

    for name in sigmafield.__all__:
        getattr(sigmafield, name)
    return sorted(OPTIONAL & set(sys.modules))


def test_import_needs_the_core_alone():
    """Everything public except load("a diffusers directory") imports no optional package, in a process of its own."""
    assert called(optional_that_are_loaded) == []
