"""What a detector has to offer, and the catalogue of those that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy import float32, float64, int64
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from detectors.datasets import Target


@dataclass(frozen=True)
class Limits:
    """Which detections leave a network.

    Attributes:
        min_score: Least score.
        max_detections: The best ones an image.
        nms_iou: A box that overlaps a surer one of its class by a higher IoU is dropped as a repeat of it; 1 drops none.
            Instances that share no pixel, as DeepLabV3's, are no repeats.
    """

    min_score: float
    max_detections: int
    nms_iou: float


@dataclass(frozen=True)
class Found:
    """Detections on one network square of side S, best first.

    Attributes:
        boxes: (N, 4) half-open corners in the network's pixels.
        scores: (N,) in [0, 1].
        categories: (N,) class index from 0.
        masks: (N, S, S) in {0, 1}, or None for a detector without masks.
    """

    boxes: NDArray[float64]
    scores: NDArray[float64]
    categories: NDArray[int64]
    masks: NDArray[float32] | None


class Detector(Protocol):
    """An architecture with its own loss and its own decoding; loop, data, metrics and files are the project's."""

    has_masks: bool
    file_prefixes: tuple[tuple[str, str], ...]
    """How a local weight file may name tensors: (prefix in the file, prefix in the network)."""

    def architecture(self, class_count: int, variant: str) -> dict[str, Any]:
        """The resolved architecture of one variant (`train.<detector>.architecture`), as saved beside the weights."""
        ...

    def build(self, architecture: dict[str, Any]) -> nn.Module:
        """A network with fresh weights from torch's global generator."""
        ...

    def is_class_tensor(self, name: str) -> bool:
        """Whether a tensor of the network belongs to single classes, so that it means nothing for other classes."""
        ...

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:
        """Named scalars, the one to minimise called "loss".

        Args:
            network: In training mode.
            pictures: (B, 3, S, S) float32 in [0, 1], on the network's device.
            targets: Of each picture, in the network's pixels.
        """
        ...

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:
        """Detections of each picture, on the CPU; the network is in evaluation mode."""
        ...


DETECTORS: dict[str, Callable[[], Detector]] = {
    "rtdetr": lambda: import_module("detectors.rtdetr").RtDetr(),
    "yolo_seg": lambda: import_module("detectors.yolo_seg").YoloSeg(),
    "rtdetr_v2": lambda: import_module("detectors.rtdetr_v2").RtDetrV2(),
    "deeplabv3": lambda: import_module("detectors.deeplabv3").DeepLabV3(),
}

COMPACT = "compact"
"""The variant made for few photos and a CPU."""

EMBEDDED = ("rtdetr", "yolo_seg")
"""Those whose compact variant was pre-trained by the project, with weights in the repository."""
