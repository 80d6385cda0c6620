"""Typed sections `train` and `evaluate` of `params.yaml`."""

from __future__ import annotations

from pydantic import Field

from pipeline.params import Section


class DetectorTuning(Section):
    """What may differ between two detectors, but never between two arms."""

    lr_scale: float = Field(gt=0)


class TrainParams(Section):
    """One training; the same for every arm."""

    image_px: int = Field(ge=32, multiple_of=32)
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    validate_every: int = Field(ge=1)
    negative_share: float = Field(ge=0, lt=1)
    synthetic_share: float = Field(gt=0, le=1)
    min_score: float = Field(ge=0, lt=1)
    max_detections: int = Field(ge=1)
    threads: int = Field(ge=1)
    rtdetr: DetectorTuning
    yolo_seg: DetectorTuning

    def tuning(self, detector: str) -> DetectorTuning:
        """The detector's own sub-section."""
        return {"rtdetr": self.rtdetr, "yolo_seg": self.yolo_seg}[detector]


class EvaluateParams(Section):
    """Scoring on test."""

    min_score: float = Field(ge=0, lt=1)
    max_detections: int = Field(ge=1)
    gallery_score: float = Field(ge=0, le=1)
    gallery_images: int = Field(ge=1)
    threads: int = Field(ge=1)
