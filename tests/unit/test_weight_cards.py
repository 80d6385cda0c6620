import hashlib
import json
from pathlib import Path

import pytest

from pipeline.weight_cards import WeightsError, verified_card, write_weight_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two weight files, one in a sub-folder, with their card."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "top.safetensors").write_bytes(b"abc")
    (tmp_path / "unet" / "part.safetensors").write_bytes(b"defg")
    (tmp_path / "config.json").write_text("{}")
    write_weight_card(tmp_path, {"steps": 7})
    return tmp_path


def test_a_card_holds_facts_hashes_and_sizes_of_weights_alone(folder: Path):
    assert json.loads((folder / "card.json").read_text()) == {
        "steps": 7,
        "sha256": {
            "top.safetensors": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "unet/part.safetensors": hashlib.sha256(b"defg").hexdigest(),
        },
        "bytes": {"top.safetensors": 3, "unet/part.safetensors": 4},
    }
    assert verified_card(folder)["steps"] == 7


def test_a_changed_byte_is_refused_with_both_hashes(folder: Path):
    (folder / "top.safetensors").write_bytes(b"abd")
    found = hashlib.sha256(b"abd").hexdigest()
    with pytest.raises(WeightsError, match=rf"top\.safetensors has sha256 {found}, its card expects ba7816.*check both out"):
        verified_card(folder)


def test_a_listed_file_that_is_gone_is_named(folder: Path):
    (folder / "unet" / "part.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"unet/part\.safetensors is missing, its card expects sha256 [0-9a-f]{64}; check"):
        verified_card(folder)


def test_weights_that_are_not_on_the_card_are_refused(folder: Path):
    (folder / "other.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"other\.safetensors is not on the card .*remove the file"):
        verified_card(folder)


def test_a_folder_without_a_card_is_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"card\.json is missing; expected it beside the weights"):
        verified_card(tmp_path)


def test_a_card_without_hashes_is_refused(folder: Path):
    (folder / "card.json").write_text('{"steps": 7}')
    with pytest.raises(WeightsError, match=r"card\.json has no entry 'sha256'"):
        verified_card(folder)


def test_a_card_without_weights_is_not_written(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no \.safetensors file to describe"):
        write_weight_card(tmp_path, {})
    assert not (tmp_path / "card.json").exists()


def test_facts_cannot_hide_the_hashes(folder: Path):
    with pytest.raises(WeightsError, match=r"facts hold \['sha256'\]"):
        write_weight_card(folder, {"sha256": "none"})
