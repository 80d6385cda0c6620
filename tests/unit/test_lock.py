"""The locked environment: up to date, complete, with hashes and without addresses, and fit to run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCK = ROOT / "requirements.lock"
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;]+)", re.MULTILINE)
NAMED_BY_THE_USER = ("torch", "diffusers", "peft", "lpips", "ultralytics", "pycocotools", "albumentations", "dvc", "prefect")


def pins() -> dict[str, str]:
    return {canonicalize_name(match["name"]): match["version"] for match in PIN.finditer(LOCK.read_text(encoding="utf-8"))}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"requirements.lock lacks {requirement.name}; run `make lock`"
    assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}; run `make lock`"


def test_every_pin_has_hashes_and_no_address():
    text = LOCK.read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", text[text.index("\n" + next(iter(PIN.finditer(text)))["name"]) + 1 :])
    assert len(blocks) == len(list(PIN.finditer(text)))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert not re.search(r"^--?(index|extra-index|find-links)", text, re.MULTILINE)


def test_lock_is_what_uv_makes_of_pyproject(tmp_path: Path):
    for name in ("pyproject.toml", "requirements.lock", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path / name)
    uv = shutil.which("uv")
    assert uv is not None, "uv is part of the environment; run `make setup`"
    arguments = ["pip", "compile", "pyproject.toml", "--quiet", "--all-extras", "--universal", "--generate-hashes"]
    command = [uv, *arguments, "--no-header", "--python", sys.executable, "--output-file", "requirements.lock"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if answer.returncode != 0 and re.search(r"Failed to fetch|error sending request|Could not connect|offline", answer.stderr):
        pytest.skip("the package index cannot be reached; the other tests of this file still hold")
    assert answer.returncode == 0, answer.stderr
    made = (tmp_path / "requirements.lock").read_text(encoding="utf-8")
    assert pinned(made) == pinned(LOCK.read_text(encoding="utf-8")), "run `make lock`"
    # A version may gain files after it was locked, but none may change.
    assert hashes(LOCK.read_text(encoding="utf-8")) <= hashes(made)


def pinned(text: str) -> list[str]:
    """Versions and the platforms they are for."""
    return [line.rstrip(" \\") for line in text.splitlines() if PIN.match(line)]


def hashes(text: str) -> set[str]:
    return set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", text))


def test_exactly_one_distribution_brings_cv2():
    owners = {name for name in metadata.packages_distributions().get("cv2", [])}
    assert owners == {"opencv-python-headless"}


@pytest.mark.parametrize("name", NAMED_BY_THE_USER)
def test_package_named_by_the_user_is_installed_at_its_pin(name: str):
    assert util.find_spec(name) is not None
    assert metadata.version(name) == pins()[name]


@pytest.mark.slow
def test_the_prefect_server_imports():
    # It calls fastapi with an argument that later versions of fastapi no longer know.
    answer = subprocess.run(
        [sys.executable, "-c", "import prefect.server.api.server"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
