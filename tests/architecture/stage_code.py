"""Which source files a stage of `dvc.yaml` runs. `python -m tests.architecture.stage_code` prints the deps to paste."""

from __future__ import annotations

import ast
import os
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.architecture.source_graph import PACKAGES, first_party, imported, modules, packages_above
from tests.conftest import ROOT

# No numerics in them, and every change of a parameter or of the catalogue would otherwise rerun everything.
EXEMPT = {"pipeline.params", "detectors.params", "pipeline.__main__", "detectors.__main__", "pipeline.generators"}
DRAWN = "pipeline/procedural"
WEIGHTS = "detectors/weights"
BASE_WEIGHTS = "pipeline/weights/base"


@dataclass(frozen=True)
class Stage:
    """One stage after all templates are filled in; `deps` are paths relative to the project."""

    name: str
    command: tuple[str, ...]
    deps: tuple[str, ...]

    @property
    def group(self) -> str:
        """Name without the item of a matrix."""
        return self.name.partition("@")[0]

    @property
    def code_deps(self) -> set[str]:
        """The deps that are source code."""
        return {dep for dep in self.deps if dep.split("/")[0] in PACKAGES}


@cache
def stages() -> tuple[Stage, ...]:
    """Every stage of the project as DVC itself resolves it."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return tuple(Stage(s.addressing, tuple(shlex.split(s.cmd)), dep_paths(s)) for s in repo.index.stages if s.cmd)


def dep_paths(stage: Any) -> tuple[str, ...]:
    """Paths of a DVC stage's deps, relative to the project where they lie in it; parameters are no paths."""
    paths = [str(dep.def_path) for dep in stage.deps if type(dep).__name__ != "ParamsDependency"]
    return tuple(os.path.normpath(path) for path in paths)


def entry_imports(package: str, command: str) -> set[str]:
    """What the function `_<command>` of a package's command line imports."""
    tree = ast.parse((ROOT / package / "__main__.py").read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == f"_{command}"]
    assert functions, f"{package}/__main__.py has no function _{command}"
    return first_party(imported(functions[0], types=False))


def chosen(catalogue: dict[str, str], words: tuple[str, ...]) -> set[str]:
    """The modules of a catalogue that the words of a command name; all of them if it names none."""
    named = {module for key, module in catalogue.items() if key in words}
    return named or set(catalogue.values())


def files_run(stage: Stage) -> set[str]:
    """Source files, and data files beside them, that decide what a stage computes."""
    package, command = stage.command[2], stage.command[3]
    waiting, seen = entry_imports(package, command), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        module = modules()[name]
        ours = first_party(module.runtime) | first_party(chosen(module.catalogue, stage.command))
        family = {other for package in module.families for other in modules() if other.startswith(package + ".")}
        waiting |= (ours | family | packages_above(name)) - seen
    needed = [modules()[name] for name in seen - EXEMPT if not modules()[name].bare]
    beside = {file for m in needed for file in data_files(m.path.parent)}
    return {str(m.path) for m in needed} | beside | weight_files(seen, stage.command)


def weight_files(names: set[str], command: tuple[str, ...]) -> set[str]:
    """Files of the pre-trained weights a stage reads: the embedded base, or those of the detector its command names."""
    folders = [ROOT / WEIGHTS / word for word in command] if "detectors.pretrained" in names else []
    folders += [ROOT / BASE_WEIGHTS] if "pipeline.stages.learn_base" in names else []
    return {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*") if path.is_file()}


@cache
def data_files(folder: Path) -> frozenset[str]:
    """Files a package reads at run time: anything in it or in its folders without code, but for READMEs."""
    if len(folder.parts) == 1 and folder.name == "pipeline":
        return frozenset()
    found: set[str] = set()
    for here, folders, names in os.walk(ROOT / folder):
        code = [n for n in folders if any((Path(here) / n).glob("*.py"))]
        folders[:] = [n for n in folders if n not in code and n not in ("__pycache__", Path(WEIGHTS).name)]
        found |= {str((Path(here) / n).relative_to(ROOT)) for n in names if not n.endswith((".py", ".pyc", ".tmp", ".md"))}
    return frozenset(found)


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(dep.rstrip("/") + "/")


def sources_below(folder: str) -> set[str]:
    """Source files of a folder that hold code."""
    return {str(m.path) for m in modules().values() if covers(folder, str(m.path)) and not m.bare and m.name not in EXEMPT}


def shortest_deps(files: set[str]) -> list[str]:
    """The files as deps; a folder below a package's top stands for its files where a stage needs all of them."""
    deps, left = [], set(files)
    folders = {str(p) for f in files for p in Path(f).parents if len(p.parts) > 1} - {WEIGHTS}  # a stage reads one detector's
    for folder in sorted(folders, key=lambda f: (f.count("/"), f)):
        inside = {file for file in left if covers(folder, file)}
        if inside and sources_below(folder) <= files and (len(inside) > 1 or not sources_below(folder)):
            deps.append(folder)
            left -= inside
    return sorted([*deps, *left])


def main() -> None:
    """Print the code deps of each stage: those of all its items, then those of single items."""
    groups: dict[str, list[Stage]] = {}
    for stage in stages():
        groups.setdefault(stage.group, []).append(stage)
    for group, items in groups.items():
        files = {stage.name: files_run(stage) for stage in items}
        common = set.intersection(*files.values())
        print(f"{group}:")
        for dep in shortest_deps(common):
            print(f"      - {dep}")
        for name, own in files.items():
            if own - common:
                print(f"    {name} alone:")
                for dep in shortest_deps(own - common):
                    print(f"      - {dep}")


if __name__ == "__main__":
    main()
