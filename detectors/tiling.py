"""Photos larger than the network's square: shown whole, and in overlapping windows cut from them at a larger scale.

Training on windows and joining what is found in them is known as slicing aided fine-tuning and inference (arXiv 2202.06934).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.datasets import Example, Record, Target, load_example
from detectors.letterbox import Fit, fit
from detectors.params import TilingParams
from pipeline.images import Mask, Picture
from pipeline.labels.boxes import clip_box, mask_to_box
from pipeline.records import Box
from pipeline.seeds import derive_seed

EDGE_PX = 3
"""A detection that ends this near to where its window was cut out of the photo is taken for a piece of a larger one."""
LEAST_SHARE = 0.2
"""A defect is a target in a window that shows this share of its pixels, or of as many as the window is wide if that is less."""
REPEAT_SHARE = 0.5
"""Two boxes of one type from different windows that share more than this of the smaller one show the same defect."""


@dataclass(frozen=True)
class Framing:
    """How photos are shown to a network.

    Attributes:
        side_px: Side of its square.
        tiling: None where photos are only shown whole.
    """

    side_px: int
    tiling: TilingParams | None

    @property
    def largest_px(self) -> int:
        """Longest side of a photo at the largest scale it is shown at."""
        return self.side_px if self.tiling is None else max(self.side_px, self.tiling.photo_px)


def framing_of(card: dict[str, Any]) -> Framing:
    """The framing a model was trained with, from its card; cards from before there were windows do not name them."""
    tiling = card.get("tiling")
    return Framing(card["side_px"], TilingParams(**tiling) if tiling is not None else None)


@dataclass(frozen=True)
class Window:
    """A rectangle of a scaled photo that fits the network's square.

    Attributes:
        shrink: Scale of the whole photo.
        corner: x and y of its top left pixel in the scaled photo.
        size: Height and width.
        least_px: Longer side, in the photo's pixels, from which on a defect is this window's to find: smaller ones are left to
            windows of a larger scale, one of which shows all of it.
    """

    shrink: Fit
    corner: tuple[int, int]
    size: tuple[int, int]
    least_px: float = 0.0

    def cut(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """The rectangle of a scaled photo or mask."""
        (x, y), (height, width) = self.corner, self.size
        return scaled[y : y + height, x : x + width]

    def to_photo(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 4) half-open boxes of the window in the photo's pixels, clipped to the photo."""
        return self.shrink.to_photo(boxes + np.array([*self.corner, *self.corner], np.float64))

    def to_scaled(self, mask: Mask) -> Patch:
        """What a network-side (S, S) mask shows, in the scaled photo."""
        height, width = self.size
        return patch_of(mask[:height, :width], self.corner)

    def finds(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) which detections, half-open boxes in the window, count: no pieces of what it cuts through, none too small."""
        (x, y), (height, width), (bottom, right) = self.corner, self.size, self.shrink.fitted
        far = np.full(len(boxes), np.inf)
        edges = (
            boxes[:, 0] if x > 0 else far,
            boxes[:, 1] if y > 0 else far,
            width - boxes[:, 2] if x + width < right else far,
            height - boxes[:, 3] if y + height < bottom else far,
        )
        corners = self.to_photo(boxes)
        longer = np.max(corners[:, 2:] - corners[:, :2], axis=1)
        return (np.min(edges, axis=0) > EDGE_PX) & (longer >= self.least_px)


@dataclass(frozen=True)
class Patch:
    """A mask by the smallest rectangle around it: of a large photo with many defects, whole masks would fill the memory.

    Attributes:
        corner: x and y of the rectangle.
        size: Its height and width.
        bits: Its pixels, eight a byte.
        pixels: How many of them belong to the mask.
    """

    corner: tuple[int, int]
    size: tuple[int, int]
    bits: NDArray[np.uint8]
    pixels: int

    @property
    def cells(self) -> Mask:
        """(h, w) bool, the rectangle."""
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(bool)

    def on(self, corner: tuple[int, int], size: tuple[int, int]) -> Mask:
        """The mask on the rectangle of `size` (height, width) at `corner` (x, y)."""
        canvas = np.zeros(size, dtype=bool)
        x, y = self.corner[0] - corner[0], self.corner[1] - corner[1]
        left, top = max(0, -x), max(0, -y)
        seen = self.cells[top : max(top, size[0] - y), left : max(left, size[1] - x)]
        canvas[y + top : y + top + seen.shape[0], x + left : x + left + seen.shape[1]] = seen
        return canvas


def patch_of(mask: Mask, corner: tuple[int, int] = (0, 0)) -> Patch:
    """The patch of an (H, W) mask whose top left pixel lies at `corner`."""
    if not mask.any():
        return Patch(corner, (0, 0), np.zeros(0, np.uint8), 0)
    x0, y0, x1, y1 = mask_to_box(mask)
    cells = mask[y0:y1, x0:x1]
    return Patch((corner[0] + x0, corner[1] + y0), (y1 - y0, x1 - x0), np.packbits(cells), int(cells.sum()))


def starts(length: int, side_px: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: as few as overlap by the share `overlap` of their side, or more, evenly spread."""
    free = length - side_px
    if free <= 0:
        return [0]
    count = -(-free // max(1, int(side_px * (1 - overlap)))) + 1
    return [round(place * free / (count - 1)) for place in range(count)]


def windows(size: tuple[int, int], framing: Framing) -> list[Window]:
    """Everything the network is shown of a photo of `size` (height, width), the whole photo first.

    A defect shorter than the overlap of two windows, less `EDGE_PX` at either end, is whole in one of them wherever it lies. The
    whole photo hands over two of its own pixels below that, since it shows lengths no more exactly.
    """
    side, whole, large = framing.side_px, fit(size, framing.side_px), fit(size, framing.largest_px)
    if framing.tiling is None or large == whole:
        return [Window(whole, (0, 0), whole.fitted)]
    overlap = framing.tiling.overlap
    height, width = (min(side, length) for length in large.fitted)
    across, down = (starts(length, side, overlap) for length in large.fitted[::-1])
    small_px = (side * overlap - 2 * EDGE_PX) / max(large.scale) - 2 / min(whole.scale)
    return [
        Window(whole, (0, 0), whole.fitted, max(0.0, small_px)),
        *(Window(large, (x, y), (height, width)) for y in down for x in across),
    ]


Mark = tuple[int, Box, Patch]
"""Class index, box and mask of a defect."""


@dataclass(frozen=True)
class LargeExample:
    """A photo that is trained on whole and in windows.

    Attributes:
        whole: At the network's scale.
        picture: At the windows' scale, read-only and on disk: hundreds of photos of some megapixels would fill the memory.
        marks: Its defects, in the pixels of `picture`.
        shrink: Scale of `picture`.
        framing: Of the network.
    """

    whole: Example
    picture: Picture
    marks: tuple[Mark, ...]
    shrink: Fit
    framing: Framing


def load_view(record: Record, framing: Framing, folder: Path) -> Example | LargeExample:
    """Read one image with its targets, at every scale it is shown at; `folder` gets pictures that windows are cut from."""
    whole = load_example(record, framing.side_px)
    if framing.tiling is None or fit(record.size, framing.largest_px) == whole.fit:
        return whole
    large = load_example(record, framing.largest_px)
    marks = tuple((t.category, t.box, patch_of(t.mask)) for t in large.targets)
    return LargeExample(
        whole, _on_disk(large.picture, folder / f"{record.path.stem}-{record.image_id}.npy"), marks, large.fit, framing
    )


def _on_disk(picture: Picture, path: Path) -> Picture:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, picture)
    return np.load(path, mmap_mode="r")


def view(example: Example | LargeExample, seed: int) -> Example:
    """What a step is shown of a photo: all of it, or a window at random, which depends on the photo and the seed alone.

    A window of a defective photo has all of one of its defects, drawn at random, or, along an axis where that is longer than the
    window, what lies around one of its pixels. Where no defect is a target in it (`LEAST_SHARE`), the whole photo is taken.
    """
    if isinstance(example, Example):
        return example
    tiling, side = example.framing.tiling, example.framing.side_px
    rng = np.random.default_rng(derive_seed(seed, "window"))
    if tiling is None or rng.random() < tiling.whole_share:
        return example.whole
    height, width = example.shrink.fitted
    across, down = _spans(rng, example.marks, side)
    x, y = _start(rng, width, side, across), _start(rng, height, side, down)
    window = Window(example.shrink, (x, y), (min(side, height), min(side, width)))
    targets = _targets(example.marks, window)
    if example.marks and not targets:
        return example.whole
    return Example(np.array(window.cut(example.picture)), targets, example.shrink)


def _spans(rng: np.random.Generator, marks: Sequence[Mark], side_px: int) -> Sequence[tuple[float, float] | None]:
    """What a window has to hold along x and y, of a defect drawn at random; None for a photo without defects."""
    if not marks:
        return None, None
    _, box, patch = marks[int(rng.integers(len(marks)))]
    rows, columns = np.nonzero(patch.cells)
    pick = int(rng.integers(len(rows)))
    pixel = patch.corner[0] + int(columns[pick]), patch.corner[1] + int(rows[pick])
    spans = zip(box[:2], box[2:], pixel, strict=True)
    return [(low, high) if high - low <= side_px else (at, at + 1) for low, high, at in spans]


def _start(rng: np.random.Generator, length: int, side_px: int, span: tuple[float, float] | None) -> int:
    """Where a window begins along an axis so that it holds `span`; for None anywhere."""
    free = max(0, length - side_px)
    ends = (np.ceil(span[1]) - side_px, np.floor(span[0])) if span else (0, free)
    low, high = (int(np.clip(end, 0, free)) for end in sorted(ends))
    return int(rng.integers(low, high + 1))


def _targets(marks: Sequence[Mark], window: Window) -> tuple[Target, ...]:
    (x, y), found = window.corner, list[Target]()
    for category, box, patch in marks:
        mask = patch.on(window.corner, window.size)
        if mask.sum() >= max(1, LEAST_SHARE * min(patch.pixels, *window.size)):
            found.append(Target(category, clip_box((box[0] - x, box[1] - y, box[2] - x, box[3] - y), window.size), mask))
    return tuple(found)
