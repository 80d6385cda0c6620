"""One exposure for all crops: photos of one product differ in brightness, and a few steps of training cannot cover that too."""

from __future__ import annotations

from torch import Tensor

LEVEL = 0.45
"""Mean light of a crop's surround, of 0 (black) to 1 (white): near the middle, since defects and glints go both ways."""
GAIN = (0.5, 4.0)
DARKEST = 0.02


def exposure_gain(images: Tensor, masks: Tensor) -> Tensor:
    """(B, 1, 1, 1) factors on light that bring the mean of what a mask leaves uncovered to `LEVEL`, within `GAIN`.

    Light is multiplied, not shifted: a defect that swallows half the light does so under any lamp. Where a mask covers the whole
    crop, the crop itself is the surround.

    Args:
        images: (B, 3, H, W) in [-1, 1], black at -1.
        masks: (B, 1, H, W) of 0 and 1.
    """
    uncovered = 1.0 - masks
    uncovered = uncovered + (uncovered.sum(dim=(1, 2, 3), keepdim=True) == 0)
    light = (images + 1.0) / 2.0
    mean = (light * uncovered).sum(dim=(1, 2, 3), keepdim=True) / (3 * uncovered.sum(dim=(1, 2, 3), keepdim=True))
    return (LEVEL / mean.clamp(min=DARKEST)).clamp(*GAIN)


def exposed(images: Tensor, gain: Tensor) -> Tensor:
    """Pictures under `gain` times the light; highlights may leave [-1, 1], so that nothing is lost on the way back."""
    return (images + 1.0) * gain - 1.0
