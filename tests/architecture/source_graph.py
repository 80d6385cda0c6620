"""The first-party import graph, read from the sources without importing anything."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

PACKAGES = ("pipeline", "detectors", "flows")


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes:
        name: Dotted name; a package's is that of its folder.
        path: File, relative to the project.
        imports: Modules imported anywhere in it, inside functions and for type checking too, as dotted names.
        runtime: The same without what is imported for type checking only.
        catalogue: Modules loaded by name: key of the catalogue's dict -> module.
        families: Packages any module of which may be loaded by name.
        bare: Whether it holds nothing but a docstring.
    """

    name: str
    path: Path
    imports: frozenset[str]
    runtime: frozenset[str]
    catalogue: dict[str, str] = field(hash=False)
    families: frozenset[str]
    bare: bool


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, *, types: bool) -> set[str]:
    """Dotted names imported below `node`; `from a import b` counts as a.b, which may be a module or a name in a."""
    found: set[str] = set()
    waiting: list[ast.AST] = [node]
    while waiting:
        current = waiting.pop()
        if not types and isinstance(current, ast.If) and "TYPE_CHECKING" in ast.unparse(current.test):
            waiting.extend(current.orelse)
            continue
        if isinstance(current, ast.Import):
            found.update(alias.name for alias in current.names)
        elif isinstance(current, ast.ImportFrom):
            assert current.level == 0, f"relative import of {current.module}: write the full name"
            found.update(f"{current.module}.{alias.name}" for alias in current.names)
        waiting.extend(ast.iter_child_nodes(current))
    return found


def _loaded(node: ast.AST) -> list[ast.expr]:
    """The names given to `import_module` below `node`."""
    return [n.args[0] for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("import_module")]


def lazy_catalogue(tree: ast.AST) -> dict[str, str]:
    """Keys and modules of dict entries such as `"name": lambda: import_module("package.module").Class()`."""
    found: dict[str, str] = {}
    for mapping in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        for key, value in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and (names := _loaded(value)):
                found[str(key.value)] = ast.literal_eval(names[0])
    return found


def lazy_families(tree: ast.AST) -> frozenset[str]:
    """`package` of every `import_module(f"package.{name}")`."""
    texts = (name.values[0] for name in _loaded(tree) if isinstance(name, ast.JoinedStr))
    return frozenset(ast.literal_eval(text).rstrip(".") for text in texts)


def is_bare(tree: ast.Module) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)


@cache
def modules() -> dict[str, Module]:
    """Every first-party module by name."""
    found: dict[str, Module] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT)
            tree = ast.parse(file.read_text(encoding="utf-8"))
            name = module_name(path)
            everything = frozenset(imported(tree, types=True))
            runtime = frozenset(imported(tree, types=False))
            found[name] = Module(name, path, everything, runtime, lazy_catalogue(tree), lazy_families(tree), is_bare(tree))
    return found


def first_party(names: frozenset[str] | set[str]) -> set[str]:
    """The modules among imported names: `pipeline.records.Sample` is the module `pipeline.records`."""
    known, found = modules(), set()
    for name in names:
        if name in known:
            found.add(name)
        elif name.rpartition(".")[0] in known:
            found.add(name.rpartition(".")[0])
        elif name.split(".")[0] in PACKAGES:
            raise AssertionError(f"import of {name}, which is no module of this project")
    return found


def packages_above(name: str) -> set[str]:
    """Packages whose `__init__` runs when `name` is imported."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))} & modules().keys()


def third_party(module: Module) -> set[str]:
    """Top-level names of everything imported that is not ours, modules loaded by a literal name included."""
    names = {*module.imports, *module.catalogue.values()}
    return {name.split(".")[0] for name in names} - set(PACKAGES)
