"""The plan of the house: which folder may import which, and how large a module and a folder may be.

Imports are read from the source, wherever they stand in it: one within a function counts as one at the top does, and so
does a module that import_module() is given by name.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsesync

TOP = Path(sparsesync.__file__).parent
MAX_LINES = 400
MAX_MODULES = 10

ORDER = (
    "__main__", "commands", "", "serving", "api", "directories", "migration", "seeding", "exclude", "comparison",
    "rsync", "hosts", "tracking", "embedding", "workers", "console", "engine.agent", "engine.access", "engine.host",
    "engine.roles", "engine.queries", "engine.transfer", "engine.tree", "engine.content", "engine.files", "engine.wire",
    "engine.text", "engine.errors", "engine",
)  # fmt: skip
"""Each imports only what stands behind it. "" is the package itself, which knows the public functions."""
BESIDE = {("engine.content", "engine.wire"), ("engine.files", "engine.wire")}
"""What stands behind, and still has nothing to do with it."""
OPTIONAL = {("engine.wire.capabilities", "blake3"), ("engine.wire.compression", "zstandard")}


def _sources() -> dict[str, Path]:
    """Each module's file, by the module's name below the package."""
    found = {}
    for path in TOP.rglob("*.py"):
        parts = path.relative_to(TOP).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = _sources()


def _imports(name: str) -> Iterator[str]:
    """What a module imports: modules of the package by their names below it, others by their own, after a colon."""
    path = SOURCES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (f":{alias.name.partition('.')[0]}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield f":{(node.module or '').partition('.')[0]}"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield inner if inner in SOURCES else ".".join(base)
    if any(isinstance(node, ast.Name) and node.id == "import_module" for node in nodes):
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = ".".join([*package, node.value.lstrip(".")]).lstrip(".")
                if node.value and named in SOURCES and named != name:
                    yield named


IMPORTS = {name: {each for each in _imports(name) if each != name} for name in SOURCES}


def _height(name: str) -> int:
    """Where in ORDER the folder is, or the module, that a module belongs to."""
    parts = name.split(".")
    return ORDER.index(next(above for above in (".".join(parts[:2]), parts[0]) if above in ORDER))


def _arrows() -> Iterator[str]:
    for name, imported in IMPORTS.items():
        for other in imported:
            if not other.startswith(":"):
                high, low = _height(name), _height(other)
                if low < high or (ORDER[high], ORDER[low]) in BESIDE:
                    yield f"{name} -> {other}"


def _cycles() -> Iterator[str]:
    """The modules that import themselves by way of others."""
    for name in SOURCES:
        reached: set[str] = set()
        ahead = set(IMPORTS[name])
        while ahead:
            reached |= ahead
            ahead = {further for other in ahead for further in IMPORTS.get(other, ())} - reached
        if name in reached:
            yield name


def _engine() -> Iterator[str]:
    for name, imported in IMPORTS.items():
        if name.partition(".")[0] == "engine":
            for other in imported:
                module = other.lstrip(":")
                standard = other.startswith(":") and module in sys.stdlib_module_names
                if not standard and module.partition(".")[0] != "engine" and (name, module) not in OPTIONAL:
                    yield f"{name} -> {module}"


def _sizes() -> Iterator[str]:
    for name, path in SOURCES.items():
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            yield name
        if path.name == "__init__.py" and len(list(path.parent.glob("[!_]*.py"))) > MAX_MODULES:
            yield f"{name}/"


def _names() -> Iterator[str]:
    """A module directly below the package would take a public function's place as soon as it is imported."""
    return (name for name in sparsesync.__all__ if name in SOURCES)


RULES = {"arrows": _arrows, "cycles": _cycles, "engine": _engine, "sizes": _sizes, "names": _names}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="does not know the names of the standard library")
@pytest.mark.parametrize("rule", RULES)
def test_the_house(rule: str) -> None:
    assert set(RULES[rule]()) == set()
