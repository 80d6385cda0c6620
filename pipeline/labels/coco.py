"""One COCO document for a set of samples: RLE masks, true areas, every defect counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from pycocotools import mask as rle_tools

from pipeline.images import Mask, read_mask
from pipeline.labels.boxes import EmptyMaskError, Margin, annotation_margin, apply_margin, box_to_coco, mask_inside, mask_to_box
from pipeline.labels.instances import instances
from pipeline.params import LabelParams
from pipeline.records import Box, Sample


class LabelError(ValueError):
    """A sample cannot be labelled as it stands."""


def encode_mask(mask: Mask) -> dict[str, Any]:
    """COCO run-length encoding with `counts` as text; holes and separate pieces are kept."""
    encoded: Any = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(encoded: dict[str, Any]) -> Mask:
    """(H, W) bool mask of a run-length encoding."""
    return rle_tools.decode(cast("Any", encoded)).astype(bool)


def _sample_mask(sample: Sample, root: Path, size: tuple[int, int]) -> Mask:
    if sample.mask is None:
        raise LabelError(f"{sample.id}: defect {sample.defect!r} without a mask; run the stage that wrote the manifest again")
    mask = read_mask(root / sample.mask)
    if mask.shape != size:
        raise LabelError(f"{sample.id}: mask is {mask.shape}, image is {size}; run `prepare` or `select` again or fix the pair")
    if not mask.any():
        raise EmptyMaskError(f"{sample.id}: mask {sample.mask} has no defect pixel; drop the sample or fix the mask")
    return mask


def _filled(box: Box, size: tuple[int, int]) -> Mask:
    return mask_inside(np.ones(size, dtype=bool), box)


def labelled_instances(sample: Sample, mask: Mask, params: LabelParams, margin: Margin | None) -> list[tuple[Box, Mask]]:
    """Box and mask of each instance of one sample.

    Where annotators drew boxes, a box is an instance and its mask is the sample's mask inside it (the whole box if no mask
    pixel lies there, since a drawn defect counts). Elsewhere an instance's box is tight, widened by `margin` if one is given.
    """
    size = (int(mask.shape[0]), int(mask.shape[1]))
    if sample.boxes is not None:
        inside = [(box, mask_inside(mask, box)) for box in sorted(sample.boxes)]
        return [(box, piece if piece.any() else _filled(box, size)) for box, piece in inside]
    pieces = instances(mask, params.close_px, params.min_area_px)
    tight: list[Box] = [mask_to_box(piece) for piece in pieces]
    boxes = tight if margin is None else [apply_margin(box, margin, size) for box in tight]
    return list(zip(boxes, pieces, strict=True))


def train_margin(samples: Sequence[Sample], root: Path) -> Margin | None:
    """The annotators' margin, measured on the train references only; None where boxes are the masks' own."""
    drawn = [s for s in samples if s.split == "train" and s.boxes is not None and s.mask is not None]
    pairs = ((box, mask) for s in drawn for mask in [read_mask(root / str(s.mask))] for box in s.boxes or ())
    return annotation_margin(pairs)


def _category_ids(classes: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(classes, 1)}


def _annotations(
    samples: Sequence[Sample],
    root: Path,
    size: tuple[int, int],
    categories: dict[str, int],
    rules: tuple[LabelParams, Margin | None],
) -> list[dict[str, Any]]:
    """Annotations of one image, without ids, in the order of its categories."""
    rows: list[dict[str, Any]] = []
    for sample in sorted((s for s in samples if not s.is_good), key=lambda s: str(s.defect)):
        if sample.defect not in categories:
            raise LabelError(f"{sample.id}: defect {sample.defect!r} is none of {sorted(categories)}; run `prepare` again")
        mask = _sample_mask(sample, root, size)
        for box, piece in labelled_instances(sample, mask, *rules):
            rows.append(
                {
                    "category_id": categories[sample.defect],
                    "bbox": box_to_coco(box),
                    "segmentation": encode_mask(piece),
                    "area": float(piece.sum()),
                    "iscrowd": 0,
                }
            )
    return rows


def coco_dataset(
    samples: Sequence[Sample], root: Path, classes: Sequence[str], params: LabelParams, margin: Margin | None = None
) -> dict[str, Any]:
    """The COCO document of samples of one fold; equal samples give equal bytes, in any order.

    Args:
        samples: Defect and good samples; those of one image share its path.
        root: Folder the samples' paths are relative to.
        classes: Defect types sorted by name; category id = index + 1.
        params: How a mask falls into instances.
        margin: Widening of tight boxes, for samples without boxes of their own.

    Returns:
        `images` (id = 1-based rank of the sorted image path; with part_id, which COCO readers ignore), `annotations`,
        `categories`.

    Raises:
        LabelError: If a defect has no mask, one of another size, or an unknown type.
        EmptyMaskError: If a defect's mask has no pixel.
    """
    by_image: dict[str, list[Sample]] = {}
    for sample in samples:
        by_image.setdefault(sample.image, []).append(sample)
    categories = _category_ids(classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, name in enumerate(sorted(by_image), 1):
        with Image.open(root / name) as picture:
            width, height = picture.size
        part = min(s.part_id for s in by_image[name])
        images.append({"id": image_id, "file_name": name, "width": width, "height": height, "part_id": part})
        for row in _annotations(by_image[name], root, (height, width), categories, (params, margin)):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **row})
    rows = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": rows}
