"""Every key of `params.yaml` belongs to exactly one model, and no model accepts another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from detectors.params import EvaluateParams, MixParams, PretrainDetectorParams, TrainParams
from pipeline.params import SECTIONS as PIPELINE
from pipeline.params import ParamsError, PretrainBaseParams, Section, parse_section
from tests.conftest import ROOT

MODELS: dict[str, type[Section]] = {**PIPELINE, "train": TrainParams, "mix": MixParams, "evaluate": EvaluateParams}
# Sections of pretrain.yaml: no stage reads them.
PRETRAIN: dict[str, type[Section]] = {"pretrain_base": PretrainBaseParams, "pretrain_detector": PretrainDetectorParams}
STAGE_DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PRETRAIN_DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "pretrain.yaml").read_text(encoding="utf-8"))
DOCUMENT = {**STAGE_DOCUMENT, **PRETRAIN_DOCUMENT}
ALL_MODELS = {**MODELS, **PRETRAIN}
PROFILES = sorted(path for path in (ROOT / "profiles").glob("*.yaml"))


def groups(model: type[BaseModel], prefix: tuple[str, ...]) -> list[tuple[tuple[str, ...], type[BaseModel]]]:
    """The model and every model nested in it, with the keys that lead there."""
    found = [(prefix, model)]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += groups(field.annotation, (*prefix, name))
    return found


GROUPS = [pair for name, model in ALL_MODELS.items() for pair in groups(model, (name,))]


def value_at(keys: tuple[str, ...]) -> Any:
    value: Any = DOCUMENT
    for key in keys:
        value = value[key]
    return value


def leaves(value: Any, prefix: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {prefix}
    return set().union(*(leaves(item, f"{prefix}.{key}".lstrip(".")) for key, item in value.items()))


def test_every_section_has_one_model_and_every_model_a_section():
    assert set(STAGE_DOCUMENT) == set(MODELS)
    assert set(PRETRAIN_DOCUMENT) == set(PRETRAIN)


@pytest.mark.parametrize(("keys", "model"), GROUPS, ids=[".".join(keys) for keys, _ in GROUPS])
def test_the_keys_of_a_group_are_the_fields_of_its_model(keys: tuple[str, ...], model: type[BaseModel]):
    assert set(value_at(keys)) == set(model.model_fields)


@pytest.mark.parametrize(("keys", "model"), GROUPS, ids=[".".join(keys) for keys, _ in GROUPS])
def test_models_are_closed_frozen_and_without_defaults(keys: tuple[str, ...], model: type[BaseModel]):
    assert model.model_config.get("extra") == "forbid"
    assert model.model_config.get("frozen") is True
    assert all(field.is_required() for field in model.model_fields.values()), "DVC sees only what params.yaml says"


@pytest.mark.parametrize("name", ALL_MODELS)
def test_the_present_values_are_valid(name: str):
    assert isinstance(parse_section(ALL_MODELS[name], name, DOCUMENT[name]), ALL_MODELS[name])


@pytest.mark.parametrize("name", [n for n in ALL_MODELS if ALL_MODELS[n].model_fields])
def test_a_misspelt_parameter_is_refused_with_the_nearest_name(name: str):
    valid = next(iter(ALL_MODELS[name].model_fields))
    with pytest.raises(ParamsError, match=rf"{name}\.{valid}_x: unknown parameter; nearest valid name: '{valid}'"):
        parse_section(ALL_MODELS[name], name, {**DOCUMENT[name], f"{valid}_x": 1})


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_a_profile_names_existing_parameters_and_all_that_any_profile_changes(profile: Path):
    changes = leaves(yaml.safe_load(profile.read_text(encoding="utf-8")))
    assert changes <= leaves(STAGE_DOCUMENT)
    everything = set().union(*(leaves(yaml.safe_load(p.read_text(encoding="utf-8"))) for p in PROFILES))
    assert changes == everything, "else switching back to this profile would leave another one's values behind"
