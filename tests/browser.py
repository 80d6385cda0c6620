"""Pages in a real headless browser, Debian's chromium. `python -m tests.browser PAGE PICTURE` photographs the top of one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

PROBE = Path(__file__).with_name("page_probe.js")
# A headless window is never narrower than 500 pixels; a frame in it is as narrow as a phone.
_NARROWEST = 500
_FRAME = """<!doctype html><body style="margin:0">
<iframe src="{source}" style="border:0;display:block;width:{width}px;height:{height}px"></iframe>
<script>addEventListener("message", (message) => {{ document.body.dataset.seen = message.data; }});</script></body>"""


@dataclass(frozen=True)
class Seen:
    """A page as it was laid out: lists name what reaches beyond the page, is cut off, overlaps, or did not load."""

    width: int
    scroll: int
    height: int
    wide: list[str]
    cut: list[str]
    over: list[str]
    broken: list[str]
    pictures: int
    text_px: float


def browser() -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no browser; `apt-get install chromium` as root, which .ci/run does")
    return found


def _run(page: Path, width: int, height: int, option: str) -> str:
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(_FRAME.format(source=page.name, width=width, height=height), encoding="utf-8")
    settings = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
    places = [f"--window-size={max(width, _NARROWEST)},{height}", f"--user-data-dir={page.with_name('profile')}"]
    command = [browser(), *settings, *places, option, frame.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def look(page: Path, folder: Path, width: int) -> Seen:
    """Lay out a copy of a page, closed sections opened, as wide as told."""
    probed = folder / f"probed-{width}.html"
    text = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    script = f"<script>{PROBE.read_text(encoding='utf-8')}</script></body>"
    probed.write_text(text.replace("</body>", script), encoding="utf-8")
    answer = re.search(r'data-seen="([^"]*)"', _run(probed, width, 900, "--dump-dom"))
    assert answer is not None, "the page did not load"
    return Seen(**json.loads(html.unescape(answer[1])))


def photograph(page: Path, folder: Path, width: int, height: int) -> Image.Image:
    """The top of a page."""
    copy, picture = folder / f"page-{width}.html", folder / f"page-{width}.png"
    shutil.copyfile(page, copy)
    _run(copy, width, height, f"--screenshot={picture}")
    with Image.open(picture) as image:
        return image.convert("RGB").crop((0, 0, width, height))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        photograph(Path(sys.argv[1]), Path(temporary), 1280, 925).quantize(64).save(sys.argv[2], optimize=True)
