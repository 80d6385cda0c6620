"""Parameters of detectors are refused before anything runs, not by the stage that needs them hours later."""

import re
from pathlib import Path

import pytest
import yaml

from detectors.__main__ import main
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("train", "batch", "eight", "batch"),
        ("train", "device", "gpu", "device"),
        ("mix", "share", 1.5, "share"),
        ("mix", "share", 0.01, "mix.share 0.01 leaves no synthetic photo"),
        ("evaluate", "gallery_score", 7, "gallery_score"),
    ],
)
def test_a_faulty_value_is_named(tmp_path: Path, capsys, section: str, name: str, value: object, message: str):
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document[section][name] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(document))
    assert main(["check", "--params", str(file)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_projects_own_parameters_and_those_of_its_profiles_fit(tmp_path: Path, capsys):
    from pipeline.configure import configure

    for profile in (None, *(file.stem for file in sorted((ROOT / "profiles").glob("*.yaml")))):
        (tmp_path / "profiles").mkdir(exist_ok=True)
        for file in (ROOT / "profiles").glob("*.yaml"):
            (tmp_path / "profiles" / file.name).write_text(file.read_text())
        (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        if profile is not None:
            configure(tmp_path / "params.yaml", profile, None, None, skip_invalid=False, settings={})
        assert main(["check", "--params", str(tmp_path / "params.yaml")]) == 0
    assert capsys.readouterr() == ("", "")
