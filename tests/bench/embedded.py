"""`make bench-embedded`: what the models in the repository are worth, on real tiles. Writes reports/bench/embedded.json.

Parts: factory, vae, fills, detectors. Each writes its result below .work/bench-embedded and is not repeated while it lies there,
so a killed bench goes on; `--again <part>` repeats one. What was not run counts as failed and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from PIL import Image
from scipy import stats

from pipeline.diffusion.components import EMBEDDED, load_pipeline
from pipeline.diffusion.pretrain import reconstruction_psnr
from pipeline.diffusion.sources import GoodCrops
from pipeline.images import read_rgb, write_png
from pipeline.params import LearnBaseParams, PrepareParams, SynthesizeParams, load_section
from pipeline.procedural.defects import defects_on
from pipeline.procedural.factory import draw
from pipeline.procedural.surfaces import SURFACES
from pipeline.records import read_manifest
from pipeline.stages.learn_base import learn_base
from pipeline.stages.prepare import prepare
from tests.bench import fills
from tests.bench.bars import Part, bar, run_parts, work_folder

COMMAND = "make bench-embedded DATA=<folder of magnetic tiles>"
WORK = work_folder("embedded")
PICTURES = Path("docs/embedded")
FOLDS = (0, 1, 2)
DETECTORS, STARTS = ("rtdetr", "yolo_seg"), ("embedded", "scratch")
HOLES = 300
SHOWN = 8


def prepared(data: Path) -> Path:
    """Magnetic tiles split into three folds, K = 5."""
    return prepare_once(data, "magnetic_tile", FOLDS, WORK / "prepared")


def prepare_once(data: Path, layout: str, folds: tuple[int, ...], out: Path) -> Path:
    """A data set split with K = 5 into `out`, unless it lies there."""
    if not out.exists():
        section = load_section("prepare", PrepareParams).model_dump()
        wanted = {"source": str(data), "layout": layout, "folds": folds, "skip_invalid": True, "k": 5}
        prepare(PrepareParams.model_validate(section | wanted), out)
    return out


def adapt_once(train: Path, out: Path) -> Path:
    """The base adapted to the good photos of every fold, in `out`, unless it lies there."""
    if not out.exists():
        learn_base(load_section("learn_base", LearnBaseParams), train, out)
    return out


def good_photos(folder: Path, split: str) -> list[tuple[str, np.ndarray]]:
    """Part and picture of every good photo of fold 0's split."""
    samples = [s for s in read_manifest(folder, 0) if s.is_good and s.split == split]
    return [(s.part_id, read_rgb(folder / s.image)) for s in samples]


def factory(data: Path) -> dict[str, Any]:
    """Drawings a second on one core, and the contact sheet's numbers."""
    cv2.setNumThreads(1)
    rng, count = np.random.default_rng(0), 600
    draw(rng, 128)
    start = time.process_time()
    for _ in range(count):
        draw(rng, 128)
    speed = count / (time.process_time() - start)
    PICTURES.mkdir(parents=True, exist_ok=True)
    # JPEG: sensor noise in a PNG would weigh ten times as much.
    Image.fromarray(contact_sheet()).save(PICTURES / "factory.jpg", quality=88)
    return {"images_per_second_and_core": round(speed, 1), "drawn": count, "size_px": 128}


def contact_sheet(size_px: int = 128, columns: int = 8) -> np.ndarray:
    """A row a surface: a good part, then one of each defect that occurs on it, outlined, as many as fit."""
    rows = []
    for family in SURFACES:
        cells = [draw(np.random.default_rng(1), size_px, family, []).picture]
        for seed, kind in enumerate(defects_on(family)[: columns - 1]):
            drawing = draw(np.random.default_rng(seed), size_px, family, [kind])
            cell = drawing.picture.copy()
            outlines, _ = cv2.findContours(drawing.instances[0][1].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(cell, outlines, -1, (255, 40, 40), 1)
            cells.append(cell)
        names = [family, *defects_on(family)[: columns - 1]]
        cells += [np.full_like(cells[0], 255)] * (columns - len(cells))
        row = np.concatenate(cells, axis=1)
        for place, name in enumerate(names):
            for colour, width in (((0, 0, 0), 2), ((255, 255, 255), 1)):
                at = (place * size_px + 3, size_px - 5)
                cv2.putText(row, name.replace("_", " "), at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, width, cv2.LINE_AA)
        rows.append(row)
    return np.concatenate(rows, axis=0)


def vae(data: Path) -> dict[str, Any]:
    """Reconstruction of random crops of test tiles at their own resolution."""
    samples = [s for s in read_manifest(prepared(data) / "test", 0) if s.split == "test"]
    photos = [read_rgb(prepared(data) / "test" / s.image) for s in samples]
    pipe = load_pipeline(EMBEDDED)
    found: dict[str, Any] = {}
    for side in (64, 128):
        images = GoodCrops(photos, side, (side, side), even_exposure=False).images(128, np.random.default_rng(0))
        found[f"psnr_{side}px_db"] = round(reconstruction_psnr(pipe, images), 2)
        with torch.inference_mode():
            back = pipe.vae.decode(pipe.vae.encode(images[:SHOWN]).latent_dist.mode()).sample.clamp(-1, 1)
        rows = [((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy() for x in (images[:SHOWN], back)]
        write_png(PICTURES / f"reconstructions_{side}px.png", sheet(rows))
    return found


def sheet(rows: list[np.ndarray], scale: int = 2) -> np.ndarray:
    """Rows of equal pictures as one picture, enlarged."""
    whole = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    return np.kron(whole, np.ones((scale, scale, 1), np.uint8))


def fill(data: Path) -> dict[str, Any]:
    """Holes in good test tiles."""
    params = load_section("learn_base", LearnBaseParams)
    train = [photo for _, photo in good_photos(prepared(data) / "train", "train")][: params.photos]
    test = good_photos(prepared(data) / "test", "test")
    holes, others = fills.cut_holes(test, HOLES, 0), fills.cut_holes(test, HOLES, 1)
    adapted = fills.adapted_base(params, train)
    scratch, facts = fills.scratch_base(params, train)
    steps = load_section("synthesize", SynthesizeParams).defectfill.steps
    made = {
        "embedded": fills.diffusion_fills(adapted, holes, steps, even=params.even_exposure),
        "scratch": fills.diffusion_fills(scratch, holes, steps, even=params.even_exposure),
        "telea": fills.telea_fills(holes),
    }
    # What the two measures can tell at all: flawless texture, and the truth itself, against Telea.
    flawless = {"same_part": fills.borrowed_fills(test, holes, 0), "truth": holes.crops}
    limits = {
        name: fills.compare(judge(), holes, others, {name: pictures, "telea": made["telea"]})
        for name, pictures in flawless.items()
    }
    shown = np.where(holes.masks[:SHOWN, ..., None], np.uint8(128), holes.crops[:SHOWN])
    write_png(PICTURES / "fills.png", sheet([holes.crops[:SHOWN], shown, *(pictures[:SHOWN] for pictures in made.values())]))
    return {
        "scratch_run": facts,
        **fills.compare(judge(), holes, others, made),
        "limits": limits,
    }


def judge() -> list[Any]:
    """First layers of the embedded YOLO-seg, strides 2 to 8: a net that took no part in training the base."""
    from detectors.pretrained import load_pretrained
    from detectors.protocol import COMPACT
    from detectors.protocol import DETECTORS as CATALOGUE
    from pipeline.procedural.factory import DEFECT_TYPES

    detector = CATALOGUE["yolo_seg"]()
    network: Any = detector.build(detector.architecture(len(DEFECT_TYPES), COMPACT))
    network.load_state_dict(load_pretrained("yolo_seg")[0])
    return list(network.eval().model[:5])


def params_file(start: str) -> Path:
    """The project's parameters with another start."""
    document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    document["train"]["start"] = start
    path = WORK / f"params-{start}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def detectors(data: Path) -> dict[str, Any]:
    """Both detectors from both starts on the `real` arm, three folds; each training is kept."""
    folder = prepared(data)
    for start, name in product(STARTS, DETECTORS):
        out = WORK / "models" / start / name / "real"
        if not out.exists():
            _run("--params", params_file(start), "train", "--detector", name, "--arm", "real", "--prepared", folder, "--out", out)
    rows: dict[str, Any] = {}
    for start in STARTS:
        out = WORK / "eval" / start
        test = folder / "test"
        _run("--params", params_file(start), "evaluate", "--models", WORK / "models" / start, "--test", test, "--out", out)
        for row in json.loads((out / "metrics.json").read_text(encoding="utf-8"))["rows"]:
            rows.setdefault(row["detector"], {}).setdefault(start, {})[str(row["fold"])] = row["box"]["map50"]
    return {name: {**found, "difference": _difference(found)} for name, found in rows.items()}


def _difference(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Embedded minus scratch: mean over folds and 95 % t interval."""
    gains = np.array([found["embedded"][fold] - found["scratch"][fold] for fold in found["embedded"]])
    half = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else float("nan")
    return {"mean": round(float(gains.mean()), 4), "half_width_95": round(half, 4), "folds": len(gains)}


def _run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "detectors", *map(str, words)], check=True, env={**os.environ, "PYTHONPATH": "."})


PARTS: dict[str, Part] = {"factory": factory, "vae": vae, "fills": fill, "detectors": detectors}


def bars(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The promises; a part that was not run has no value."""
    speed, psnr, filled, gains = (found.get(name, {}) for name in PARTS)
    rows = [
        bar("drawings a second and core at 128 px", speed.get("images_per_second_and_core"), 60, "higher", "fixed", COMMAND),
        bar("VAE PSNR on test tiles, 64 px, dB", psnr.get("psnr_64px_db"), 32, "higher", "the crops themselves", COMMAND),
        bar("VAE PSNR on test tiles, 128 px, dB", psnr.get("psnr_128px_db"), 32, "higher", "the crops themselves", COMMAND),
    ]
    for name, reference in (("scratch", "the same networks trained as long on the same photos"), ("telea", "OpenCV Telea")):
        for kind in ("distance", "kid"):
            interval = filled.get(name, {}).get(f"{kind}_difference")
            upper = interval[2] if interval else None
            text = f"fills: upper end of the 95 % interval of the {kind} difference to {name}"
            rows.append(bar(text, upper, 0, "lower", reference, COMMAND))
    for name in DETECTORS:
        gain = gains.get(name, {}).get("difference", {}).get("mean")
        rows.append(
            bar(f"{name}: box mAP50 gained by the embedded start", gain, 0.15, "higher", "from scratch, same steps", COMMAND)
        )
    return rows


def forget(part: str) -> None:
    """The detectors trained before; the other parts keep nothing besides their result."""
    if part == "detectors":
        shutil.rmtree(WORK / "models", ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(run_parts("embedded", PARTS, bars, forget))
