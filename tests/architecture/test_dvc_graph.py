"""The import graph is the cache graph: a stage depends on the code it runs and on no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from detectors.protocol import DETECTORS, EMBEDDED
from tests.architecture.stage_code import DRAWN, Stage, covers, files_run, shortest_deps, stages
from tests.conftest import ROOT

STAGES = stages()


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_stage_depends_on_all_code_it_runs(stage: Stage):
    # With a user's own photos the drawn data set is no source any more, and its code decides nothing.
    files = {file for file in files_run(stage) if stage.group != "prepare" or not covers(DRAWN, file)}
    missing = sorted(file for file in files if not any(covers(dep, file) for dep in stage.code_deps))
    assert not missing, (
        f"dvc.yaml, stage {stage.group}: deps lack {missing}; `python -m tests.architecture.stage_code` prints "
        f"what belongs there: {shortest_deps(files_run(stage))}"
    )


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_stage_depends_on_no_code_it_does_not_run(stage: Stage):
    # Items of a matrix share one list of deps, so what any of them runs may stand in it.
    files = set().union(*(files_run(item) for item in STAGES if item.group == stage.group))
    unused = sorted(dep for dep in stage.code_deps if not any(covers(dep, file) for file in files))
    assert not unused, f"dvc.yaml, stage {stage.group}: nothing imports {unused}, so a change there would rerun it for nothing"


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_stage_depends_on_no_whole_top_package(stage: Stage):
    assert not stage.code_deps & {"pipeline", "detectors"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_only_evaluate_depends_on_the_test_parts(stage: Stage):
    reads_test = any(covers(dep, "data/prepared/test") for dep in stage.deps)
    assert reads_test == (stage.group == "evaluate")


def test_targets_are_read_by_synthesize_and_chosen_by_hand():
    """They follow from trained models, which follow from them: as a stage that would be a circle."""
    assert {stage.group for stage in STAGES if "data/targets.yaml" in stage.deps} == {"synthesize"}
    assert not any("targets" in stage.command or "pipeline/targets.py" in stage.deps for stage in STAGES)


def test_drawn_data_depends_on_the_code_that_draws_it():
    source = yaml.safe_load((ROOT / "params.yaml").read_text())["prepare"]
    prepare = next(stage for stage in STAGES if stage.group == "prepare")
    assert source["source"] in prepare.deps
    assert (source["source"] == DRAWN) == (source["layout"] == "sample")


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_every_path_a_stage_depends_on_as_code_exists(stage: Stage):
    assert all((ROOT / dep).exists() for dep in stage.code_deps)


def with_detector(stage: Stage, name: str) -> Stage:
    """The stage as it would be with another detector in `vars`."""
    known = EMBEDDED[0]
    command = tuple(name if word == known else word for word in stage.command)
    return replace(stage, command=command, deps=tuple(dep.replace(f"/{known}", f"/{name}") for dep in stage.deps))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("stage", [s for s in STAGES if EMBEDDED[0] in s.command], ids=lambda s: s.name)
def test_a_user_may_add_any_detector_to_the_training_stages(stage: Stage, name: str):
    other = with_detector(stage, name)
    assert f"detectors/{name}.py" in other.deps
    assert all((ROOT / dep).exists() for dep in other.code_deps)
    assert not [file for file in files_run(other) if not any(covers(dep, file) for dep in other.code_deps)]
