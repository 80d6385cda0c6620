"""Where the part is on a photo: the user's mask, the estimated foreground, or all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.images import Mask, Picture, read_mask, read_rgb
from pipeline.masks.ground import RegionError, estimated_region
from pipeline.params import PlacementParams
from pipeline.records import Sample


def region_of(photo: Picture, sample: str, params: PlacementParams) -> Mask:
    """(H, W) where the part is on a photo: the user's mask where there is one, else as `region` says.

    Raises:
        RegionError: Names the photo, if the estimate is no plausible part or the user's mask does not fit the photo.
    """
    own = _own_mask(sample, params)
    if own is not None:
        region = read_mask(own)
        if region.shape != photo.shape[:2] or not region.any():
            raise RegionError(f"{own}: {region.shape} with {int(region.sum())} pixels set; expected {photo.shape[:2]} and some")
        return region
    if params.region == "texture":
        return np.ones(photo.shape[:2], bool)
    try:
        return estimated_region(photo)
    except RegionError as error:
        raise RegionError(
            f"{sample}: {error}; give a mask of the part in synthesize.placement.region_masks, or set region: texture"
        ) from error


def _own_mask(sample: str, params: PlacementParams) -> Path | None:
    """File of the user's mask for a photo, where there is one."""
    own = None if params.region_masks is None else Path(params.region_masks) / f"{sample}.png"
    return own if own is not None and own.is_file() else None


def check_regions(train: Path, good: Sequence[Sample], params: PlacementParams) -> None:
    """Find the part on every good photo before anything is painted, and compare the user's masks with what is found.

    Raises:
        RegionError: Names every photo at fault, or the folder of masks if it holds none of these photos.
    """
    if params.region_masks is not None and not any(_own_mask(sample.id, params) for sample in good):
        raise RegionError(f"{params.region_masks}: no mask for any of {len(good)} good photos; expected e.g. {good[0].id}.png")
    faults: list[str] = []
    for sample in good:
        photo = read_rgb(train / sample.image)
        try:
            region = region_of(photo, sample.id, params)
        except RegionError as error:
            faults.append(str(error))
        else:
            faults += _disagreement(photo, region, sample.id, params)
    if faults:
        raise RegionError("\n".join(faults))


def _disagreement(photo: Picture, region: Mask, sample: str, params: PlacementParams) -> list[str]:
    """What to say where the user's mask is not what is seen; nothing where nothing is seen: then the mask stands in for it."""
    own, least = _own_mask(sample, params), params.region_agreement
    if own is None or least is None or params.region == "texture":
        return []
    try:
        seen = estimated_region(photo)
    except RegionError:
        return []
    iou = (seen & region).sum() / (seen | region).sum()
    if iou >= least:
        return []
    return [
        f"{sample}: {own} and the estimated foreground have an IoU of {iou:.2f}, expected {least} at least; correct the mask, or "
        "where it is right, lower synthesize.placement.region_agreement (null: they are not compared)"
    ]
