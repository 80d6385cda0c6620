"""Photos of one type beside the folder of their masks: what `mvtec` and `folder` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.layouts.raw import Fault, RawDefect, RawPhoto, image_files, safe_name


@dataclass
class Collector:
    """Collects photos and faults of one source folder.

    Attributes:
        source: Names in messages are relative to it.
        part: From a photo's relative path to its part id; None where no rule covers the photo.
        rule: Name of the rule for messages; None if every photo is its own part.
    """

    source: Path
    part: Callable[[str], str | None]
    rule: str | None
    photos: list[RawPhoto] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Path for people: POSIX, relative to the source."""
        return path.relative_to(self.source).as_posix()

    def _add(self, path: Path, prefix: str, defects: tuple[RawDefect, ...]) -> None:
        file = self.name(path)
        part_id = self.part(file) if self.rule else safe_name(f"{prefix}-{path.stem}")
        if part_id is None:
            self.faults.append(Fault(file, f"{self.rule} gives no part for it; without one the split could leak"))
            return
        self.photos.append(RawPhoto(safe_name(f"{prefix}-{path.stem}"), file, path, part_id, defects))

    def good(self, folder: Path, prefix: str) -> None:
        """Add every picture of `folder` as a good photo."""
        for path in image_files(folder):
            self._add(path, prefix, ())

    def defective(self, images: Path, masks: Path, suffix: str) -> None:
        """Add the pictures of `images` with the mask `<stem><suffix>.*` of folder `masks`; the folder's name is the type."""
        kind = images.name
        by_stem = {path.stem: path for path in image_files(masks)}
        used: set[str] = set()
        for path in image_files(images):
            stem = path.stem + suffix
            if stem not in by_stem:
                wanted = self.name(masks / f"{stem}.png")
                self.faults.append(Fault(self.name(path), f"defect image without mask; expected {wanted}"))
                continue
            used.add(stem)
            self._add(path, kind, (RawDefect(kind, by_stem[stem]),))
        for stem in sorted(set(by_stem) - used):
            wanted = f"{self.name(images)}/{stem.removesuffix(suffix)}.*"
            self.faults.append(Fault(self.name(by_stem[stem]), f"mask without image; expected {wanted}"))
