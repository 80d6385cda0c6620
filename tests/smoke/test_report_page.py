"""The report in a real browser, as wide as a phone and as wide as a desk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import look, photograph
from tests.report_toy import run_report, write_quick_look, write_study

PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def quick_look(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quick")
    write_quick_look(root)
    run_report(root)
    return root / "reports" / "comparison.html"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    run_report(root)
    return root / "reports" / "comparison.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("page", ["quick_look", "study"])
def test_nothing_reaches_beyond_the_page_overlaps_or_is_too_small(page: str, width: int, request, tmp_path: Path):
    seen = look(request.getfixturevalue(page), tmp_path, width)
    assert seen.width == width
    assert seen.scroll <= width
    assert (seen.wide, seen.cut, seen.over, seen.broken) == ([], [], [], [])
    assert seen.pictures >= 16
    assert seen.text_px >= 11


@pytest.mark.slow
def test_the_check_sees_a_page_that_is_too_wide(study: Path, tmp_path: Path):
    broken = tmp_path / "broken.html"
    texts = '<svg viewBox="0 0 20 20"><text x="10" y="10">one</text><text x="12" y="10">two</text></svg>'
    wide = f'<p style="width:700px">wide</p>{texts}'
    broken.write_text(study.read_text(encoding="utf-8").replace("</main>", wide + "</main>"), encoding="utf-8")
    seen = look(broken, tmp_path, PHONE)
    assert seen.scroll >= 700
    assert seen.wide == ["P."]
    assert seen.over == ["one / two"]
    assert seen.cut


@pytest.mark.slow
def test_the_verdict_stands_at_the_top_of_the_picture(study: Path, tmp_path: Path):
    picture = photograph(study, tmp_path, DESK, 600)
    assert picture.size == (DESK, 600)
    colours = {picture.getpixel((x, 300)) for x in range(DESK)}
    assert (0, 119, 92) in colours  # the bar of a verdict that helps
