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
from pipeline.params import DefectFillParams, DiffusionSamplingParams, SynthesizeParams
from pipeline.records import Sample, good_samples, read_manifest
from pipeline.references import Reference, instances, read_references
from pipeline.scenes import Placed, open_planner
from pipeline.seeds import derive_seed
from pipeline.selection import read_real
from pipeline.wanted import Wanted
from tests.bench.fills import features, hole_vectors, part_interval

SIDE_PX = 64
REAL_SCALE, REAL_MIN_PX = 3.0, 32
LIGHT = 110.0
"""Grey level the surround of every defect is brought to before it is judged."""
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


SPARE = (("train", "unused"), ("val", "val"))
"""Folders and splits of real defects that are neither references nor test."""


def held_back(prepared: Path, fold: int, splits: Sequence[tuple[str, str]] = SPARE) -> list[Reference]:
    """Single defects of parts that are neither references nor test."""
    found: list[Reference] = []
    for folder, split in splits:
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


def open_sampler(bench: Bench, concept: Path, params: SynthesizeParams, changes: Mapping[str, Any]) -> DefectFillSampler:
    """The concept's sampler with some of its settings changed."""
    good = [read_rgb(bench.train / s.image) for s in good_samples(bench.samples) if s.split == "train"][:32]
    sampling = DiffusionSamplingParams.model_validate(params.defectfill.model_dump() | dict(changes))
    job = SampleJob(sampling, bench.base, good, params.feather_px, params.micro_batch, bench.fold, bench.references)
    return DefectFillSampler(concept, job)


def candidates(sampler: DefectFillSampler, placed: Sequence[Placed], count: int = 1) -> list[Synthetic]:
    """So many candidates of each request, as the stage `synthesize` draws them; none may be dropped."""
    asked = ((p.request, derive_seed("candidate", p.request.id, number)) for p in placed for number in range(count))
    made = [answer for answer in sampler(asked) if isinstance(answer, Synthetic)]
    assert len(made) == count * len(placed), "the sampler dropped candidates"
    return made


def paint(bench: Bench, concept: Path, params: SynthesizeParams, placed: Sequence[Placed], scale: float) -> list[Synthetic]:
    """One candidate a request, with the adapter at a scale; at 0 the token rows stay. All of it is the network's own work."""
    return candidates(open_sampler(bench, concept, params, {"lora_scale": scale, "contrast_gain": 1.0, "detail": None}), placed)


def vectors(bench: Bench, pictures: Sequence[Picture], masks: Sequence[Mask]) -> NDArray[np.float64]:
    """(N, D) mean features of the judge inside masks."""
    return hole_vectors(features(bench.judge, np.stack(list(pictures))), np.stack(list(masks)))


def close_look(picture: Picture, mask: Mask) -> tuple[Picture, Mask]:
    """(64, 64, 3) picture and (64, 64) mask at the defect's middle, from so near that thin ones can be seen, in one light.

    The side follows the root of the area, not the length: at three times its length a crack of 2 px is less than a pixel wide,
    and the nearest thing to a real one would be an untouched tile.
    """
    ys, xs = np.nonzero(mask)
    side = min(max(REAL_MIN_PX, round(REAL_SCALE * len(xs) ** 0.5)), *mask.shape)
    middle = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    one = np.zeros_like(mask)
    one[ys[middle], xs[middle]] = True
    window = window_around(one, side, 1)
    part, inside = read_window(picture, window), read_mask_window(mask, window)
    around = part[~inside] if not inside.all() else part
    evened = np.clip(part * (LIGHT / max(1.0, float(around.mean()))), 0, 255).astype(np.uint8)
    return resize_picture(evened, SIDE_PX), shown_mask(inside)


def distances(bench: Bench, placed: Sequence[Placed], made: Sequence[Synthetic]) -> NDArray[np.float64]:
    """(N,) mean distance of every filled region to the `NEAREST` held-back real defects of its type, in deviations a feature."""
    real = vectors(bench, *zip(*(close_look(r.image, r.mask) for r in bench.held_back), strict=True))
    middle, spread = real.mean(axis=0), real.std(axis=0) + 1e-8
    looks = (close_look(m.image, p.request.mask) for m, p in zip(made, placed, strict=True))
    ours = (vectors(bench, *zip(*looks, strict=True)) - middle) / spread
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
