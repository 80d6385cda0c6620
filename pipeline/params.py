"""Typed, closed models of the sections of `params.yaml`. No defaults: what is not in the file does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


class ParamsError(ValueError):
    """A section of `params.yaml` has an unknown, missing or impossible value."""


class Section(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 < ends[0] <= ends[1]:
        raise ValueError(f"expected two numbers above 0, the smaller one first, got {list(ends)}")
    return ends


def _at_least_one(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] < 1:
        raise ValueError(f"crops are enlarged, never shrunk: expected numbers of at least 1, got {list(ends)}")
    return ends


def _some(weights: Sequence[float]) -> None:
    if min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"expected weights of at least 0, and one above 0, got {list(weights)}")


Range = Annotated[tuple[float, float], AfterValidator(_rising)]
Sides = Annotated[tuple[int, int], AfterValidator(_rising)]
Device = Literal["cpu", "cuda", "mps"]
Share = Annotated[float, Field(ge=0, le=1)]


class SampleSetParams(Section):
    """The procedural data set of layout `sample`."""

    seed: int
    size_px: int = Field(ge=64)
    parts_per_type: int = Field(ge=6)
    good_parts: int = Field(ge=6)


class PrepareParams(Section):
    """Import, validation, split."""

    source: str
    layout: Literal["sample", "mvtec", "magnetic_tile", "deep_pcb", "folder"]
    k: int = Field(ge=1)
    folds: tuple[int, ...] = Field(min_length=1)
    fold_count: int = Field(ge=2)
    val_parts: int = Field(ge=1)
    val_good_fraction: float = Field(gt=0, lt=1)
    skip_invalid: bool
    part_regex: str | None
    near_duplicate_min_correlation: float = Field(gt=0, le=1)
    sample: SampleSetParams


class FitParams(Section):
    """One optimisation of a small network."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)


class AdaptParams(Section):
    """Further training of a finished base on the user's good photos."""

    steps: int = Field(ge=0)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)


class LearnBaseParams(Section):
    """The inpainting pipeline everything starts from."""

    source: str
    threads: int = Field(ge=1)
    crop_px: int = Field(ge=16, multiple_of=16)
    crop_side_px: Sides
    even_exposure: bool
    photos: int = Field(ge=1)
    adapt: AdaptParams
    vae: FitParams
    unet: FitParams


class PretrainBaseParams(Section):
    """Training of the embedded base on drawings; a section of `pretrain.yaml`."""

    seed: int
    threads: int = Field(ge=1)
    crop_px: tuple[int, ...] = Field(min_length=1)
    large_share: float = Field(ge=0, le=1)
    ema_decay: float = Field(gt=0, lt=1)
    vae: FitParams
    unet: FitParams


class CopyPasteParams(Section):
    """Copy-paste has nothing to set."""


class DefectFillParams(Section):
    """DefectFill, fitting (arXiv 2503.13985)."""

    device: Device
    threads: int = Field(ge=1)
    token: Literal["new", "rare"]
    adapter: Literal["shared", "per_type"]
    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    lora_targets: Literal["attention", "all"]
    lr_unet: float = Field(gt=0)
    lr_text: float = Field(gt=0)
    lr_token: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    ema_decay: float = Field(ge=0, lt=1)
    autocast: Literal["none", "bf16", "fp16"]
    gradient_checkpointing: bool
    prompt_dropout: float = Field(ge=0, lt=1)
    prompt_noise: float = Field(ge=0)
    weight_defect: float = Field(ge=0)
    weight_object: float = Field(ge=0)
    weight_attention: float = Field(ge=0)
    background_weight: float = Field(ge=0, le=1)
    random_boxes: int = Field(ge=1)
    encoded_crops: int = Field(ge=1)
    reduction: Literal["mean", "area"]
    attention_norm: Literal["none", "max"]
    crop_scale: Range
    min_crop_px: int = Field(ge=8)
    scale_augment: Annotated[Range, AfterValidator(_at_least_one)]
    flip: bool
    even_exposure: bool
    object: str
    curves: tuple[Literal["tensorboard", "dvclive"], ...]
    preview_every: int = Field(ge=0)


class LearnConceptParams(Section):
    """One sub-section a generator."""

    copy_paste: CopyPasteParams
    defectfill: DefectFillParams


class WarpParams(Section):
    """How a mask of the bank becomes a new one."""

    rotate_deg: float = Field(ge=0, le=180)
    scale: Range
    flip: bool


class PastedMaskParams(Section):
    """Pasting takes a reference's pixels along: it cannot bend or draw them."""

    affine: Literal[1]
    elastic: Literal[0]
    drawn: Literal[0]


class PaintedMaskParams(Section):
    """Weights of the sources of masks."""

    affine: float = Field(ge=0)
    elastic: float = Field(ge=0)
    drawn: float = Field(ge=0)

    @model_validator(mode="after")
    def _one_is_above_zero(self) -> PaintedMaskParams:
        _some((self.affine, self.elastic, self.drawn))
        return self


class MasksParams(Section):
    """Where the masks of a generator come from, and how far bent and drawn ones depart from the references."""

    copy_paste: PastedMaskParams
    defectfill: PaintedMaskParams
    bend: float = Field(ge=0, le=1)
    bend_cells: int = Field(ge=1)
    drawn_spread: float = Field(ge=0)


class PlacementParams(Section):
    """Where on a photo masks go, and how many; docs/placement.md."""

    region: Literal["texture", "object"]
    region_masks: str | None
    region_agreement: Share | None
    inside_share: float = Field(gt=0, le=1)
    bandwidth: float = Field(gt=0)
    uniform_share: float = Field(ge=0, le=1)
    places: int = Field(ge=1)
    spot_places: int = Field(ge=1)
    spot_mismatch: float = Field(gt=0)
    tries: int = Field(ge=1)
    defects_per_image: Literal["references"] | Annotated[tuple[float, ...], Field(min_length=1)]
    min_distance_px: int = Field(ge=1)
    join_overlap: float | None = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _one_number_is_possible(self) -> PlacementParams:
        if not isinstance(self.defects_per_image, str):
            _some(self.defects_per_image)
        return self


class CopyPasteSamplingParams(Section):
    """Pasting; more than one candidate a request would be the same picture again."""

    candidates: Literal[1]


class PruneParams(Section):
    """Which candidates of a request are denoised to the end."""

    after: float = Field(gt=0, lt=1)
    keep: int = Field(ge=1)


class DetailParams(Section):
    """Where the reference a mask was made from gives the detail that the network is too small or too little trained for."""

    from_shrink: float = Field(ge=0)
    coarse_px: float = Field(gt=0)
    light: Share


class DiffusionSamplingParams(Section):
    """Sampling of an inpainting diffusion model; docs/concepts.md says which values are the stock pipeline's."""

    candidates: int = Field(ge=1)
    device: Device
    autocast: Literal["none", "bf16", "fp16"]
    compile: Literal["none", "regional"]
    scheduler: Literal["ddim", "dpm", "unipc"]
    steps: int = Field(ge=1)
    guidance: float = Field(ge=1)
    guidance_interval: tuple[Share, Share]
    strength: float = Field(gt=0, le=1)
    lora_scale: float = Field(ge=0)
    blend: bool
    composite: Literal["change", "pixels", "none"]
    posterior: Literal["mean", "drawn"]
    widen_mask: bool
    keep_grey: bool
    even_exposure: bool
    contrast_gain: float = Field(ge=1)
    detail: DetailParams | None
    prune: PruneParams | None

    @model_validator(mode="after")
    def _possible(self) -> DiffusionSamplingParams:
        low, high = self.guidance_interval
        if low >= high:
            raise ValueError(f"guidance_interval must rise, got {[low, high]}; for no guidance set guidance to 1")
        if self.compile == "regional" and self.device != "cuda":
            raise ValueError(f"compile: regional needs device: cuda, not {self.device}; set compile to none")
        if self.prune is not None and self.prune.keep >= self.candidates:
            raise ValueError(f"prune.keep is {self.prune.keep} of {self.candidates} candidates; keep fewer, or set prune to null")
        return self


class RedrawParams(Section):
    """How often a generator answers a request again of which every candidate was refused; pasting would give the same again."""

    copy_paste: Literal[0]
    defectfill: int = Field(ge=0)


class SynthesizeParams(Section):
    """Requests, crops and candidates."""

    threads: int = Field(ge=1)
    crop_scale: Range
    min_crop_px: int = Field(ge=8)
    good_photos: int = Field(ge=1)
    feather_px: int = Field(ge=0)
    micro_batch: int = Field(ge=1)
    shard_requests: int = Field(ge=1)
    warp: WarpParams
    masks: MasksParams
    placement: PlacementParams
    redraws: RedrawParams
    copy_paste: CopyPasteSamplingParams
    defectfill: DiffusionSamplingParams

    @model_validator(mode="after")
    def _photos_stay_as_they_are(self) -> SynthesizeParams:
        if self.defectfill.composite == "none":
            raise ValueError(
                "defectfill.composite: none changes whole crops, and away from its labels an image of the data set is its "
                "photo; set change or pixels"
            )
        return self


class RememberedParams(Section):
    """Share of the distance between real references below which a candidate counts as remembered; null for no guard.

    For generators that learn. Copy-paste is the reference, pasted: as a baseline it has nothing to guard.
    """

    copy_paste: None
    defectfill: float | None = Field(ge=0, le=1)


class SelectParams(Section):
    """Low-Fidelity Selection and its guards."""

    threads: int = Field(ge=1)
    perceptual: Literal["auto", "lpips", "base"]
    keep_per_request: int = Field(ge=1)
    min_changed_share: float = Field(ge=0, le=1)
    outlier_quantile: float = Field(gt=0, le=1)
    remembered_share: RememberedParams
    quality_neighbours: int = Field(ge=1)


class LabelParams(Section):
    """From a mask to instances; the same for real and synthetic images."""

    close_px: int = Field(ge=0)
    min_area_px: int = Field(ge=1)


class ReportParams(Section):
    """The comparison of arms, as JSON, Markdown and one HTML file."""

    gallery_rows: int = Field(ge=1)
    candidate_rows: int = Field(ge=0)
    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)


SECTIONS: dict[str, type[Section]] = {
    "prepare": PrepareParams,
    "learn_base": LearnBaseParams,
    "learn_concept": LearnConceptParams,
    "synthesize": SynthesizeParams,
    "select": SelectParams,
    "label": LabelParams,
    "report": ReportParams,
}
"""The stages of `pipeline` and the models of their sections, in the order of the flow."""

_S = TypeVar("_S", bound=Section)


def pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` arguments of a command line as a dict.

    Raises:
        ParamsError: For an argument without `=`, or a name given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise ParamsError(f"{option} takes NAME=VALUE, got {value!r}")
        if name in found:
            raise ParamsError(f"{option} names {name!r} twice")
        found[name] = rest
    return found


def nearest(name: str, known: list[str]) -> str:
    """End of an error message: the valid name most like a wrong one."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; nearest valid name: {close[0]!r}" if close else ""


def _field_names(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names the model at `location` knows (the last item of `location` is the unknown key)."""
    current: type[BaseModel] = model
    for part in location[:-1]:
        annotation = current.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        current = annotation
    return list(current.model_fields)


def parse_section(model: type[_S], name: str, value: Any) -> _S:
    """Validate one section.

    Raises:
        ParamsError: Names every wrong key or value at once, and for an unknown key the nearest valid name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults: list[str] = []
        for fault in error.errors():
            where = ".".join([name, *map(str, fault["loc"])])
            if fault["type"] == "extra_forbidden":
                hint = nearest(str(fault["loc"][-1]), _field_names(model, fault["loc"]))
                faults.append(f"{where}: unknown parameter{hint}")
            elif fault["type"] == "missing":
                faults.append(f"{where}: missing; add it by hand, as the params.yaml of this version has it")
            else:
                faults.append(f"{where}: {fault['msg']} (got {fault.get('input')!r})")
        raise ParamsError("params.yaml: " + "; ".join(faults)) from error


def load_section(name: str, model: type[_S], path: Path = Path("params.yaml")) -> _S:
    """Read section `name` of `params.yaml`.

    Raises:
        ParamsError: If the section is missing (with the nearest name) or does not fit `model`.
    """
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if name not in document:
        raise ParamsError(f"{path}: no section {name!r}{nearest(name, list(document))}")
    return parse_section(model, name, document[name])
