"""Is a painted defect new, or a training reference over again? Correlation of what is peculiar to each."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture, grey_of
from pipeline.masks.crops import close_up

FRAME_PX = 32
LIGHTING_PX = FRAME_PX / 8
"""Structure wider than this is lighting, of which two surfaces may have the same by chance."""
Detail = NDArray[np.float32]


def own_detail(picture: Picture, mask: Mask) -> Detail:
    """(FRAME_PX, FRAME_PX) of unit length: the grey structure inside a mask that its shape does not explain, 0 outside it.

    Brightness, contrast and lighting cancel, and so does the mean grey level at each depth below the mask's edge: two dark holes
    of one shape are alike without one being the other's copy.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W), not empty.
    """
    close, inside = close_up(picture, mask, 1.0, FRAME_PX)
    grey = grey_of(close).astype(np.float32)
    # Blurred within the mask alone: the edge of a dark defect would otherwise count as its detail.
    lighting = cv2.GaussianBlur(grey * inside, (0, 0), LIGHTING_PX) / (cv2.GaussianBlur(inside, (0, 0), LIGHTING_PX) + 1e-6)
    structure = grey - lighting
    depth = np.rint(cv2.distanceTransform((inside > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)).astype(int)
    by_depth = np.bincount(depth.ravel(), (structure * inside).ravel()) / (np.bincount(depth.ravel(), inside.ravel()) + 1e-6)
    detail = (structure - by_depth[depth]) * inside
    return (detail / max(float(np.linalg.norm(detail)), 1e-6)).astype(np.float32)


def orientations(detail: Detail) -> NDArray[np.float32]:
    """(8, FRAME_PX * FRAME_PX): a detail in the four quarter turns, as it is and mirrored."""
    turned = [np.rot90(side, quarter) for side in (detail, detail[:, ::-1]) for quarter in range(4)]
    return np.stack([one.ravel() for one in turned])


def distances(detail: Detail, references: NDArray[np.float32]) -> NDArray[np.float64]:
    """(R,) one minus the correlation with each reference in the orientation that fits best.

    Args:
        detail: Of the candidate.
        references: (R, 8, FRAME_PX * FRAME_PX), see `orientations`.
    """
    return 1.0 - (references @ detail.ravel()).max(axis=1).astype(np.float64)
