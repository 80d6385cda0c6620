"""What concepts paint on real tiles: with their adapter against without, and with each loss left out, judged by another net.

Held-back defects are those of `val` and `unused` parts: neither references nor test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats

from pipeline.diffusion.components import load_pipeline
from pipeline.diffusion.latents import unet_input
from pipeline.generators.defectfill.batches import BatchSource
from pipeline.generators.defectfill.concept import attach, load_concept, token_of
from pipeline.generators.defectfill.encoded import encode_batch
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import FitJob, SampleJob, Synthetic
from pipeline.images import Mask, Picture, read_mask, read_rgb
from pipeline.masks.crops import paint_mask, read_mask_window, read_window, resize_picture, window_around
from pipeline.params import DefectFillParams, SynthesizeParams
from pipeline.records import Sample, good_samples, read_manifest
from pipeline.references import Reference, instances, read_references
from pipeline.scenes import Placed, Wanted, open_planner
from pipeline.seeds import derive_seed
from pipeline.selection import read_real
from tests.bench.fills import features, hole_vectors, part_interval

SIDE_PX = 64
REAL_SCALE, REAL_MIN_PX = 3.0, 32
NEAREST = 3
REQUESTS = 30
"""Of each type and fold."""
ATTENDED = 12
"""Held-back defects of each type whose attention is looked at."""
ATTENTION_TIME = 300
VARIANTS: dict[str, dict[str, float]] = {
    "all losses": {},
    "no L_attn": {"weight_attention": 0.0},
    "no L_obj": {"weight_object": 0.0},
    "no L_def": {"weight_defect": 0.0},
}


@dataclass(frozen=True)
class Bench:
    """One fold of real tiles.

    Attributes:
        fold: Fold and seed.
        train: Folder of the train split, which holds `unused` parts too.
        base: Folder of the fold's base.
        held_back: Single real defects of `val` and `unused` parts.
        judge: First layers of a net that took no part in training the base.
    """

    fold: int
    train: Path
    base: Path
    held_back: Sequence[Reference]
    judge: list[Any]

    @property
    def samples(self) -> list[Sample]:
        """Every sample of the fold's train folder."""
        return read_manifest(self.train, self.fold)

    @property
    def references(self) -> list[Reference]:
        """What concepts are fitted on."""
        return read_references(self.train, self.samples)


def held_back(prepared: Path, fold: int) -> list[Reference]:
    """Single defects of parts that are neither references nor test."""
    found: list[Reference] = []
    for folder, split in (("train", "unused"), ("val", "val")):
        for sample in read_manifest(prepared / folder, fold):
            if sample.split == split and sample.defect is not None and sample.mask is not None:
                image, mask = read_rgb(prepared / folder / sample.image), read_mask(prepared / folder / sample.mask)
                parts = instances(mask, sample.boxes)
                found += [Reference(f"{sample.id}#{i}", sample.defect, image, one) for i, one in enumerate(parts)]
    return found


def real_crop(reference: Reference) -> tuple[Picture, Mask]:
    """(64, 64, 3) picture and (64, 64) mask around one real defect."""
    window = window_around(reference.mask, REAL_SCALE, REAL_MIN_PX)
    picture, mask = read_window(reference.image, window), read_mask_window(reference.mask, window)
    return resize_picture(picture, SIDE_PX), shown_mask(mask)


def shown_mask(mask: Mask) -> Mask:
    """The mask at 64 px; where it is too thin to survive that, the whole crop."""
    small = paint_mask(mask, SIDE_PX)
    return small if small.any() else np.ones_like(small)


def requests(bench: Bench, params: SynthesizeParams, count: int) -> list[Placed]:
    """`count` requests of each type, as the stage `synthesize` makes them."""
    real = read_real(bench.train, bench.fold)
    wanted: Wanted = {defect: {"any": count} for defect in sorted({r.defect for r in real.references})}
    planner = open_planner("defectfill", real, params, wanted)
    return [placed for number in range(planner.count) for placed in planner.make(number)]


def fitted(bench: Bench, params: DefectFillParams, out: Path) -> Path:
    """The concept in `out`, fitted unless it is there."""
    if not (out / "card.json").exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        fit(FitJob(params, bench.references, bench.base, out.parent, bench.fold), out)
    return out


def paint(bench: Bench, concept: Path, params: SynthesizeParams, placed: Sequence[Placed], scale: float) -> list[Synthetic]:
    """One candidate a request, with the adapter at a scale; at 0 the token rows stay."""
    good = [read_rgb(bench.train / s.image) for s in good_samples(bench.samples) if s.split == "train"][:32]
    sampling = params.defectfill.model_copy(update={"lora_scale": scale})
    job = SampleJob(sampling, bench.base, good, params.feather_px, params.micro_batch, bench.fold)
    sampler = DefectFillSampler(concept, job)
    return list(sampler((p.request, derive_seed("candidate", p.request.id, 0)) for p in placed))


def vectors(bench: Bench, pictures: Sequence[Picture], masks: Sequence[Mask]) -> NDArray[np.float64]:
    """(N, D) mean features of the judge inside masks."""
    return hole_vectors(features(bench.judge, np.stack(list(pictures))), np.stack(list(masks)))


def distances(bench: Bench, placed: Sequence[Placed], made: Sequence[Synthetic]) -> NDArray[np.float64]:
    """(N,) mean distance of every filled region to the `NEAREST` held-back real defects of its type, in deviations a feature."""
    crops = [real_crop(r) for r in bench.held_back]
    real = vectors(bench, [c for c, _ in crops], [m for _, m in crops])
    middle, spread = real.mean(axis=0), real.std(axis=0) + 1e-8
    masks = [shown_mask(p.request.mask) for p in placed]
    ours = (vectors(bench, [resize_picture(m.image, SIDE_PX) for m in made], masks) - middle) / spread
    kinds, found = np.array([r.defect for r in bench.held_back]), np.zeros(len(placed))
    for row, p in enumerate(placed):
        same = (real[kinds == p.record.defect] - middle) / spread
        apart = np.sqrt(((same - ours[row]) ** 2).mean(axis=1))
        found[row] = np.sort(apart)[:NEAREST].mean()
    return found


def effect(bench: Bench, concept: Path, params: SynthesizeParams) -> dict[str, Any]:
    """For each type: distance to real defects with adapter scale 1 minus that with 0, same seeds, and its 95 % interval."""
    placed = requests(bench, params, REQUESTS)
    one, zero = (distances(bench, placed, paint(bench, concept, params, placed, scale)) for scale in (1.0, 0.0))
    clean = {s.id: s.part_id for s in bench.samples}
    found: dict[str, Any] = {}
    for defect in sorted({p.record.defect for p in placed}):
        rows = [i for i, p in enumerate(placed) if p.record.defect == defect]
        mean, low, high = part_interval((one - zero)[rows], tuple(clean[placed[i].record.clean] for i in rows), 0)
        found[defect] = {
            "scale_1": round(float(one[rows].mean()), 4),
            "scale_0": round(float(zero[rows].mean()), 4),
            "difference": [round(v, 4) for v in (mean, low, high)],
        }
    return found


@torch.inference_mode()
def attention_iou(bench: Bench, concept: Path, params: DefectFillParams) -> float:
    """Mean over types of the IoU of a defect with the pixels its token attends to most, as many as the defect has.

    Held-back real defects, object branch, one fixed time and noise.
    """
    pipe = load_pipeline(bench.base)
    load_concept(pipe, concept, bench.base)
    kinds = sorted({r.defect for r in bench.references})
    ids = {kind: pipe.tokenizer.convert_tokens_to_ids(token_of(kind)) for kind in kinds}
    ready = attach(pipe, {kind: token_of(kind) for kind in kinds}, ids, params.object)
    rng, scores = np.random.default_rng(bench.fold), []
    for kind in kinds:
        source = BatchSource([r for r in bench.held_back if r.defect == kind], params, SIDE_PX)
        batch = encode_batch(pipe.vae, source.draw(ATTENDED, rng))
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(bench.fold))
        times = torch.full((ATTENDED,), ATTENTION_TIME)
        noisy = pipe.scheduler.add_noise(batch.latents, noise, times)  # pyright: ignore[reportAttributeAccessIssue]
        text = pipe.text_encoder(ready.ids[kind][1:]).last_hidden_state.expand(ATTENDED, -1, -1)
        with ready.recorder.recording(torch.full((ATTENDED,), ready.columns[kind])) as maps:
            pipe.unet(unet_input(noisy, batch.random_masks, batch.random_background), times, encoder_hidden_states=text)
        size = batch.masks.shape[-2:]
        attended = torch.stack([F.interpolate(m[:, None], size=size, mode="bilinear") for m in maps]).mean(dim=0)
        scores.append(np.mean([_top_iou(a[0], m[0] > 0) for a, m in zip(attended, batch.masks, strict=True)]))
    return round(float(np.mean(scores)), 4)


def _top_iou(attended: torch.Tensor, mask: torch.Tensor) -> float:
    """IoU of a (h, w) mask with its own number of highest pixels of a (h, w) map."""
    count = int(mask.sum())
    if count == 0:
        return 0.0
    top = torch.zeros(mask.numel(), dtype=torch.bool)
    top[attended.flatten().topk(count).indices] = True
    both = int((top & mask.flatten()).sum())
    return both / (2 * count - both)


def ablation_row(bench: Bench, concept: Path, fitting: DefectFillParams, params: SynthesizeParams) -> dict[str, float]:
    """Distance to real defects, averaged over types of equal count, and attention IoU of one concept."""
    placed = requests(bench, params, REQUESTS)
    apart = distances(bench, placed, paint(bench, concept, params, placed, 1.0))
    return {"distance": round(float(apart.mean()), 4), "attention_iou": attention_iou(bench, concept, fitting)}


def ablation_summary(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Mean over folds of each variant, and all losses minus it with a 95 % t interval over folds; `rows[variant][fold]`."""
    full, *others = rows
    found: dict[str, Any] = {}
    for variant in rows:
        found[variant] = {
            name: round(float(np.mean([r[name] for r in rows[variant].values()])), 4) for name in ("distance", "attention_iou")
        }
        if variant in others:
            for name in ("distance", "attention_iou"):
                gains = np.array([rows[full][fold][name] - rows[variant][fold][name] for fold in rows[full]])
                half = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5)
                found[variant][f"{name}_difference"] = [round(float(gains.mean()), 4), round(half, 4)]
    return found
