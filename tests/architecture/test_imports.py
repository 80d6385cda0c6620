"""Who may import whom. A row says what a package may import of ours besides itself; longer names win over shorter ones."""

from __future__ import annotations

import pytest

from tests.architecture.source_graph import Module, first_party, modules, third_party

FOUNDATION = ("pipeline.records", "pipeline.images", "pipeline.seeds", "pipeline.params")
LOOP = ("pipeline.training", "pipeline.averaging", "pipeline.curves", "pipeline.runlog", "pipeline.weight_cards")

ALLOWED: dict[str, tuple[str, ...]] = {
    "flows": (),
    "detectors": (
        *FOUNDATION,
        *LOOP,
        "pipeline.fan_out",
        "pipeline.folds",
        "pipeline.labels",
        # Photos of a user, decoded as `prepare` decodes them.
        "pipeline.layouts.decoding",
        "pipeline.layouts.raw",
        "pipeline.matches",
        "pipeline.procedural",
        "pipeline.single_run",
        "pipeline.val_matches",
    ),
    "pipeline": (*FOUNDATION, *LOOP),
    "pipeline.__main__": ("pipeline",),
    "pipeline.stages": ("pipeline",),
    "pipeline.records": (),
    "pipeline.images": (),
    "pipeline.seeds": (),
    "pipeline.params": (),
    "pipeline.runlog": ("pipeline.records",),
    "pipeline.training": ("pipeline.seeds",),
    "pipeline.averaging": (),
    "pipeline.curves": ("pipeline.images",),
    "pipeline.weight_cards": ("pipeline.records",),
    "pipeline.configure": (*FOUNDATION, "pipeline.wanted"),
    "pipeline.adopt": (*FOUNDATION, *LOOP, "pipeline.diffusion", "pipeline.generators"),
    "pipeline.targets": (
        *FOUNDATION,
        "pipeline.masks",
        "pipeline.references",
        "pipeline.runlog",
        "pipeline.val_matches",
        "pipeline.wanted",
    ),
    "pipeline.val_matches": (),
    "pipeline.single_run": ("pipeline.params",),
    "pipeline.wanted": (*FOUNDATION, "pipeline.masks"),
    "pipeline.regions": (*FOUNDATION, "pipeline.masks"),
    "pipeline.procedural": FOUNDATION,
    "pipeline.registration": FOUNDATION,
    "pipeline.layouts": (*FOUNDATION, "pipeline.procedural", "pipeline.registration"),
    "pipeline.near_duplicates": (*FOUNDATION, "pipeline.layouts"),
    "pipeline.leak_guard": (*FOUNDATION, "pipeline.near_duplicates", "pipeline.layouts"),
    "pipeline.splits": (*FOUNDATION, "pipeline.layouts"),
    "pipeline.validation": (*FOUNDATION, "pipeline.layouts", "pipeline.near_duplicates"),
    "pipeline.references": FOUNDATION,
    "pipeline.shards": (*FOUNDATION, "pipeline.masks"),
    "pipeline.selection": (
        *FOUNDATION,
        "pipeline.masks",
        "pipeline.references",
        "pipeline.shards",
        "pipeline.similarity",
    ),
    "pipeline.scenes": (
        *FOUNDATION,
        "pipeline.generators.protocol",
        "pipeline.masks",
        "pipeline.photo_cache",
        "pipeline.references",
        "pipeline.regions",
        "pipeline.registration",
        "pipeline.selection",
        "pipeline.shards",
        "pipeline.wanted",
    ),
    "pipeline.photo_cache": (),
    "pipeline.answering": (
        *FOUNDATION,
        "pipeline.generators.protocol",
        "pipeline.scenes",
        "pipeline.selection",
        "pipeline.shards",
    ),
    "pipeline.lineage": (*FOUNDATION, "pipeline.answering", "pipeline.selection", "pipeline.shards"),
    "pipeline.fan_out": (),
    "pipeline.folds": ("pipeline.fan_out", "pipeline.records", "pipeline.runlog"),
    # Opens everything a shard is made with.
    "pipeline.shard_making": (
        *FOUNDATION,
        "pipeline.runlog",
        "pipeline.answering",
        "pipeline.diffusion",
        "pipeline.generators",
        "pipeline.lineage",
        "pipeline.photo_cache",
        "pipeline.scenes",
        "pipeline.selection",
        "pipeline.shards",
        "pipeline.similarity",
        "pipeline.wanted",
    ),
    "pipeline.labels": FOUNDATION,
    "pipeline.masks": FOUNDATION,
    "pipeline.similarity": (*FOUNDATION, "pipeline.masks"),
    "pipeline.matches": (),
    "pipeline.reporting": (*FOUNDATION, "pipeline.masks.crops", "pipeline.matches", "pipeline.runlog", "pipeline.shards"),
    "pipeline.diffusion": (*FOUNDATION, *LOOP, "pipeline.masks"),
    "pipeline.pretraining": (*FOUNDATION, *LOOP, "pipeline.masks", "pipeline.procedural", "pipeline.diffusion"),
    "pipeline.generators": (),
    "pipeline.generators.*": (
        *FOUNDATION,
        *LOOP,
        "pipeline.masks",
        "pipeline.references",
        "pipeline.generators.protocol",
        "pipeline.diffusion",
    ),
    "pipeline.generators.protocol": (*FOUNDATION, "pipeline.references"),
}

# Heavy or far-reaching libraries, and the only modules that may know them.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "prefect": ("flows.reproduce", "flows.schedule"),
    "dvc": (),
    "ultralytics": ("detectors.ultralytics_models",),
    "albumentations": ("detectors.augment",),
    "lpips": ("pipeline.similarity",),
    "dvclive": ("pipeline.curves",),
    "tensorboard": (),  # torch writes its files, in pipeline.curves
    "peft": ("pipeline.generators", "pipeline.diffusion"),
    "jinja2": ("pipeline.reporting",),
    "ruamel": ("pipeline.configure",),
    "distributed": ("pipeline.fan_out",),
    "dask": (),
}

# Numerics without networks: these run in milliseconds and must import so.
WITHOUT_TORCH = (
    "pipeline.fan_out", "pipeline.folds", "pipeline.photo_cache", "pipeline.regions", "pipeline.registration",
    "pipeline.val_matches", "pipeline.wanted", "pipeline.__main__", "pipeline.records",
    "pipeline.images", "pipeline.seeds", "pipeline.params", "pipeline.runlog", "pipeline.weight_cards", "pipeline.configure",
    "pipeline.labels", "pipeline.masks", "pipeline.layouts",
    "pipeline.splits", "pipeline.procedural", "pipeline.near_duplicates", "pipeline.leak_guard", "pipeline.validation",
    "pipeline.matches",
    "pipeline.reporting", "pipeline.shards", "pipeline.targets", "pipeline.stages.prepare", "pipeline.stages.label",
    "pipeline.stages.report", "flows", "detectors.params", "detectors.datasets", "detectors.letterbox", "detectors.drawn",
)  # fmt: skip

ALL = sorted(modules().values(), key=lambda module: module.name)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def home(name: str) -> str:
    """The unit a module belongs to: a stage, a generator, a package, or the module itself."""
    parts = name.split(".")
    deep = 3 if parts[:2] in (["pipeline", "stages"], ["pipeline", "generators"]) else 2
    return "detectors" if parts[0] == "detectors" else "flows" if parts[0] == "flows" else ".".join(parts[:deep])


def rule_of(name: str) -> tuple[str, ...]:
    unit = home(name)
    if unit in ALLOWED:
        return ALLOWED[unit]
    if inside(name, "pipeline.generators"):
        return ALLOWED["pipeline.generators.*"] if unit != "pipeline.generators" else ("pipeline.generators.protocol",)
    return ALLOWED["pipeline.stages"] if inside(name, "pipeline.stages") else ALLOWED["pipeline"]


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.name)
def test_module_imports_only_what_its_package_may(module: Module):
    allowed = (home(module.name), *rule_of(module.name))
    # Parents of a module are only folders on the way to it.
    wrong = {name for name in first_party(module.imports) if not any(inside(name, package) for package in allowed)}
    if home(module.name) == "pipeline.generators":  # the catalogue itself
        wrong -= {"pipeline.generators.protocol"}
    assert not wrong, f"{module.name} may import {', '.join(allowed)}; it imports {sorted(wrong)}"


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.name)
def test_stages_are_imported_by_the_command_line_alone_and_never_by_each_other(module: Module):
    stages = {name for name in first_party(module.imports) if inside(name, "pipeline.stages") and name != module.name}
    assert not stages or module.name == "pipeline.__main__"


@pytest.mark.parametrize("module", [m for m in ALL if inside(m.name, "pipeline.generators")], ids=lambda m: m.name)
def test_a_generator_knows_no_other_generator_and_one_family_of_networks(module: Module):
    others = {
        home(name)
        for name in first_party(module.imports)
        if inside(name, "pipeline.generators") and home(name) != home(module.name)
    }
    assert others <= {"pipeline.generators.protocol"}
    families = {home(name) for name in first_party(module.imports)} & {"pipeline.diffusion", "pipeline.adversarial"}
    assert len(families) <= 1


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.name)
def test_pipeline_knows_neither_detectors_nor_flows_and_nobody_knows_flows(module: Module):
    tops = {name.split(".")[0] for name in first_party(module.imports)} - {module.name.split(".")[0]}
    assert tops <= ({"pipeline"} if inside(module.name, "detectors") else set())


@pytest.mark.parametrize("module", [m for m in ALL if inside(m.name, "detectors")], ids=lambda m: m.name)
def test_only_pretraining_knows_drawn_pictures(module: Module):
    ours = first_party(module.imports)
    assert not any(inside(name, "pipeline.procedural") for name in ours) or module.name == "detectors.drawn"
    assert "detectors.drawn" not in ours or module.name == "detectors.pretraining"
    assert "detectors.pretraining" not in ours or module.name == "detectors.__main__"


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_imported_only_by_its_adapter(library: str):
    users = {m.name for m in ALL if library in third_party(m)}
    strangers = {name for name in users if not any(inside(name, owner) for owner in ONLY_IN[library])}
    assert not strangers, f"only {ONLY_IN[library] or 'nobody'} may import {library}"


@pytest.mark.parametrize("module", [m for m in ALL if any(inside(m.name, p) for p in WITHOUT_TORCH)], ids=lambda m: m.name)
def test_numerics_need_no_deep_learning_library(module: Module):
    assert not third_party(module) & {"torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "ultralytics"}
