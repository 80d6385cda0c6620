"""Moving a clean photo of a piece onto another photo of it, by whole pixels; turns and stretches are left alone."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.images import Picture, grey_of

MOST_PX = 12
"""Of 557 boards of DeepPCB none was found further than 10 from its template; further off the next of repeated tracks may lie."""
LEAST_GAIN = 0.01
"""In correlation. Below it a photo stays where it is: parallel tracks look much alike when moved along themselves."""


def align(clean: Picture, photo: Picture) -> Picture:
    """The clean photo, moved by at most `MOST_PX` to where it is most like another of its size; left where that gains little.

    What the move leaves open at a border is filled with the nearest row or column.
    """
    reach = min(MOST_PX, min(clean.shape[:2]) // 4)
    middle = grey_of(clean)[reach:-reach, reach:-reach]
    if not middle.size:
        return clean
    # likeness of the middle at every move; row and column `reach` are no move at all
    found = np.asarray(cv2.matchTemplate(grey_of(photo), middle, cv2.TM_CCOEFF_NORMED))
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    if found[row, column] < found[reach, reach] + LEAST_GAIN:
        return clean
    move = np.asarray([[1, 0, column - reach], [0, 1, row - reach]], np.float32)
    size = clean.shape[1], clean.shape[0]
    moved = cv2.warpAffine(clean, move, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.uint8)
