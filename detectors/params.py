"""Typed sections `train` and `evaluate` of `params.yaml`, and `pretrain_detector` of `pretrain.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from detectors.protocol import Limits
from pipeline.params import Device, LabelParams, ParamsError, Range, Section

Start = Literal["embedded", "scratch"]
Autocast = Literal["none", "bf16"]


class DetectorTuning(Section):
    """What may differ between two detectors, but never between two arms."""

    lr_scale: float = Field(gt=0)
    architecture: str
    weights: str | None


class RtDetrTuning(DetectorTuning):
    """RT-DETR of ultralytics."""

    architecture: Literal["compact", "rtdetr-l", "rtdetr-x"]


class YoloSegTuning(DetectorTuning):
    """YOLO-seg of ultralytics."""

    architecture: Literal["compact", "yolo11n-seg", "yolo11s-seg", "yolo11m-seg", "yolo11l-seg", "yolo11x-seg"]


class UnshippedTuning(DetectorTuning):
    """A detector without weights in the repository: `train.start` says nothing about it."""

    start: Literal["scratch", "file"]

    @model_validator(mode="after")
    def _possible(self) -> UnshippedTuning:
        if (self.start == "file") != (self.weights is not None):
            raise ValueError(f"start: {self.start} and weights: {self.weights} contradict each other; a file needs a path")
        return self


class RtDetrV2Tuning(UnshippedTuning):
    """RT-DETRv2 of transformers."""

    architecture: Literal["compact"]


class DeepLabV3Tuning(UnshippedTuning):
    """DeepLabV3 of torchvision; the architecture is its backbone."""

    architecture: Literal["resnet50", "resnet101", "mobilenet_v3_large"]


class DecodingSection(Section):
    """A section by which detections are made."""

    min_score: float = Field(ge=0, lt=1)
    max_detections: int = Field(ge=1)
    nms_iou: float = Field(gt=0, le=1)

    @property
    def limits(self) -> Limits:
        """Which detections count."""
        return Limits(self.min_score, self.max_detections, self.nms_iou)


class TilingParams(Section):
    """Windows cut from photos that are larger than the network's square; see `detectors.tiling`."""

    photo_px: int = Field(ge=64)
    overlap: float = Field(ge=0, le=0.9)
    whole_share: float = Field(gt=0, lt=1)


class TrainParams(DecodingSection):
    """One training; the same for every arm."""

    start: Start
    image_px: int = Field(ge=32, multiple_of=32)
    tiling: TilingParams | None
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    validate_every: int = Field(ge=1)
    negative_share: float = Field(ge=0, lt=1)
    autocast: Autocast
    device: Device
    threads: int = Field(ge=1)
    rtdetr: RtDetrTuning
    yolo_seg: YoloSegTuning
    rtdetr_v2: RtDetrV2Tuning
    deeplabv3: DeepLabV3Tuning

    @model_validator(mode="after")
    def _larger(self) -> TrainParams:
        if self.tiling is not None and self.tiling.photo_px <= self.image_px:
            raise ValueError(
                f"tiling.photo_px: {self.tiling.photo_px} is not above image_px: {self.image_px}; windows of image_px are cut "
                "from photos of photo_px, so give a larger one, or tiling: null"
            )
        return self

    def tuning(self, detector: str) -> DetectorTuning:
        """The detector's own sub-section."""
        return {
            "rtdetr": self.rtdetr,
            "yolo_seg": self.yolo_seg,
            "rtdetr_v2": self.rtdetr_v2,
            "deeplabv3": self.deeplabv3,
        }[detector]


class MixParams(Section):
    """How synthetic images are used, in the arms that have them."""

    share: float = Field(gt=0, le=1)
    until: float = Field(gt=0, le=1)
    weight: float = Field(gt=0)


def check_share(train: TrainParams, mix: MixParams) -> None:
    """Whether batches of this size can have the share of synthetic photos asked for, or at least one photo of either kind.

    Raises:
        ParamsError: If no synthetic photo is left after rounding, or no real defect although a share below 1 asks for some.
    """
    # As `batches.batch_counts` rounds, where there are good photos.
    defective = train.batch - min(train.batch - 1, int(train.batch * train.negative_share + 0.5))
    synthetic = int(defective * mix.share + 0.5)
    if synthetic == 0 or (synthetic == defective and mix.share < 1):
        kind = "synthetic" if synthetic == 0 else "real"
        # The shares of one photo and of all but one: what rounds to them is a little wider, but cannot be written shortly.
        fitting = f"{1 / defective:.3g} to {1 - 1 / defective:.3g}, " if defective > 1 else ""
        raise ParamsError(
            f"mix.share {mix.share:g} leaves no {kind} photo among the {defective} with defects in a batch (train.batch "
            f"{train.batch}, train.negative_share {train.negative_share:g}); expected {fitting}"
            f"a larger batch, or an arm without {kind} defects"
        )


@dataclass(frozen=True)
class Recipe:
    """Everything of `params.yaml` that a training depends on: sections `train`, `mix` and `label`."""

    train: TrainParams
    mix: MixParams
    label: LabelParams


class EvaluateParams(DecodingSection):
    """Scoring on test."""

    f_measure_score: float = Field(ge=0, le=1)
    gallery_score: float = Field(ge=0, le=1)
    gallery_images: int = Field(ge=1)
    threads: int = Field(ge=1)


class PretrainTuning(Section):
    """What differs between two detectors in pre-training."""

    steps: int = Field(ge=1)
    lr_scale: float = Field(gt=0)


class DrawingParams(Section):
    """How drawn photos become training pictures."""

    sides_px: tuple[Annotated[int, Field(ge=64, multiple_of=64)], ...] = Field(min_length=1)
    pixels_per_step: int = Field(ge=1)
    zoom: Range
    mosaic_share: float = Field(ge=0, le=1)
    narrow_share: float = Field(ge=0, le=1)


class PretrainDetectorParams(DecodingSection):
    """One pre-training on drawn defects."""

    seed: int
    drawing: DrawingParams
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    validate_every: int = Field(ge=1)
    validation_pictures: int = Field(ge=1)
    threads: int = Field(ge=1)
    workers: int = Field(ge=0)
    rtdetr: PretrainTuning
    yolo_seg: PretrainTuning

    def tuning(self, detector: str) -> PretrainTuning:
        """The detector's own sub-section."""
        return {"rtdetr": self.rtdetr, "yolo_seg": self.yolo_seg}[detector]
