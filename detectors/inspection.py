"""A trained detector on photos that nobody has labelled: what it finds, for programs and for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_segmentation_masks

from detectors.model_files import load_model
from detectors.params import EvaluateParams
from detectors.predict import detect
from detectors.tiling import framing_of
from pipeline.images import Picture
from pipeline.labels.coco import decode_mask
from pipeline.layouts.decoding import UNREADABLE, decode, white_level
from pipeline.layouts.raw import IMAGE_SUFFIXES
from pipeline.records import write_json, write_text

DETECTIONS, PHOTOS, PICTURES = "detections.json", "photos.csv", "pictures"
JPEG_QUALITY = 90
# Okabe and Ito's colours without black: told apart by colour-blind readers; by type, in turn.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442")


class PhotosError(ValueError):
    """The photos cannot be inspected, or the results have no place."""


def photo_files(folder: Path) -> list[Path]:
    """Every picture file in a folder and below, by path; hidden ones are left out.

    Raises:
        PhotosError: If there is none, or a name cannot be written down.
    """
    if not folder.is_dir():
        raise PhotosError(f"{folder} is no folder; expected one with pictures")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise PhotosError(f"{folder}: no picture in it; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    if odd := [path for path in found if not str(path).isprintable()]:
        raise PhotosError(f"{odd[0]!r}: a name with characters that cannot be written down; rename it")
    return sorted(found)


def _check_place(photos: Path, out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise PhotosError(f"{out} exists; name a folder that does not, since nothing there is replaced")
    if out.resolve().is_relative_to(photos.resolve()):
        raise PhotosError(f"{out} lies in the folder of photos {photos}; the next run would take its pictures for photos")


def _read(path: Path, white: int | None = None) -> tuple[Picture, int]:
    """(H, W, 3) uint8 as `prepare` decodes it, and the peak of a picture deeper than 8 bits."""
    try:
        found = decode(path, white)
    except UNREADABLE as error:
        raise PhotosError(f"{path} cannot be read: {error}; mend or remove it") from error
    grey = found.picture.ndim == 2
    return np.repeat(found.picture[:, :, None], 3, axis=2) if grey else found.picture, found.peak


def inspect(
    params: EvaluateParams, model: Path, photos: Path, out: Path, score: float, white: int | None = None
) -> dict[str, int]:
    """Run one trained detector on every photo of a folder.

    Args:
        params: Section `evaluate`: limits of what is detected, and threads.
        model: A folder of `train`, `data/models/<detector>/<arm>/fold-<f>`.
        photos: Folder of pictures, searched below as well.
        out: Gets `detections.json` (COCO, each annotation with its `score`), `photos.csv` (highest score of any detection on each
            photo, how many defects, of which types) and `pictures/` (photos with a defect, drawn in). It must not exist yet.
        score: From which on a detection is a defect.
        white: What becomes 255 in photos deeper than 8 bits, e.g. 4095. None takes the full scale that holds the brightest of
            them, as `prepare` does with its photos; a batch that is darker than those as a whole then comes out too bright.

    Returns:
        Number of photos, of photos with a defect, and of defects.

    Raises:
        ModelFileError: If the model folder is incomplete.
        PhotosError: If there is no photo, one cannot be read, `score` is out of range, or `out` exists; nothing is written.
    """
    if not params.min_score <= score <= 1:
        raise PhotosError(f"score {score}: expected {params.min_score} (evaluate.min_score) to 1")
    _check_place(photos, out)
    files, trained = photo_files(photos), load_model(model)
    torch.set_num_threads(params.threads)
    # Read once before, so that a torn file does not end the run after hours.
    peak = max(_read(path)[1] for path in files)
    white = white or (white_level(peak) if peak else None)
    images: list[dict[str, Any]] = []
    defects: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        for image_id, path in enumerate(files, 1):
            picture, name = _read(path, white)[0], path.relative_to(photos).as_posix()
            images.append({"id": image_id, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
            found = detect(trained.detector, trained.network, picture, image_id, framing_of(trained.card), params.limits)
            sure = [row for row in found if row["score"] >= score]
            rows.append(_line(name, found, sure, trained.classes))
            defects += [{"id": len(defects) + place, **_annotation(row)} for place, row in enumerate(sure, 1)]
            if sure:
                _save(draw(picture, sure, trained.classes), folder / PICTURES / f"{name}.jpg")
        categories = [{"id": number, "name": name} for number, name in enumerate(trained.classes, 1)]
        about = {
            "detector": trained.card["detector"],
            "arm": trained.card["arm"]["name"],
            "fold": trained.card["fold"],
            "score": score,
        }
        write_json(folder / DETECTIONS, {"info": about, "images": images, "categories": categories, "annotations": defects})
        write_text(folder / PHOTOS, _table(rows))
        folder.rename(out)
    return {"photos": len(images), "photos_with_defects": len({row["image_id"] for row in defects}), "defects": len(defects)}


def _annotation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A result as an annotation, with the area of its mask, or else its box."""
    area = float(decode_mask(row["segmentation"]).sum()) if "segmentation" in row else row["bbox"][2] * row["bbox"][3]
    return {**row, "area": round(area, 3), "iscrowd": 0}


def _line(name: str, found: Sequence[dict[str, Any]], sure: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    highest = max((row["score"] for row in found), default=0.0)
    types = sorted({classes[int(row["category_id"]) - 1] for row in sure})
    return {"photo": name, "highest_score": highest, "defects": len(sure), "types": ";".join(types)}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def draw(picture: Picture, sure: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Picture:
    """(H, W, 3) uint8 of a photo with the boxes of its detections, their types and scores, and masks where there are any."""
    canvas = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    colours = [COLOURS[(row["category_id"] - 1) % len(COLOURS)] for row in sure]
    if all("segmentation" in row for row in sure):
        # One by one, the surest last: drawn together they are black where they overlap.
        for row, colour in zip(reversed(sure), reversed(colours), strict=True):
            canvas = draw_segmentation_masks(canvas, torch.from_numpy(decode_mask(row["segmentation"])), alpha=0.4, colors=colour)
    image = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    pen, text_px, width = ImageDraw.Draw(image), max(10, min(picture.shape[:2]) // 40), max(1, max(picture.shape[:2]) // 300)
    font = ImageFont.load_default(text_px)
    # The surest on top. Names stand above their boxes or below, for a small defect would be hidden by its own.
    for row, colour in zip(reversed(sure), reversed(colours), strict=True):
        x, y, wide, high = row["bbox"]
        pen.rectangle((x - width, y - width, x + wide + width - 1, y + high + width - 1), outline=colour, width=width)
        label = f"{classes[int(row['category_id']) - 1]} {row['score']:.2f}"
        left = max(1.0, min(x, image.width - 1 - pen.textlength(label, font)))
        above = y - width - 2 >= text_px
        place, anchor = ((left, y - width - 2), "lb") if above else ((left, y + high + width + 2), "lt")
        pen.text(place, label, fill=colour, font=font, anchor=anchor, stroke_width=1, stroke_fill="white")
    return np.array(image)


def _save(picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="JPEG", quality=JPEG_QUALITY)
