"""A randomly initialised small pipeline and a few references, for tests that need gradients and files but no quality."""

from pathlib import Path

import numpy as np

from pipeline.diffusion.components import small_pipeline
from pipeline.params import DefectFillParams
from pipeline.references import Reference

SIDE = 32


def fit_params(**changes: object) -> DefectFillParams:
    values: dict[str, object] = {
        "device": "cpu",
        "threads": 1,
        "token": "new",
        "adapter": "shared",
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "lr_unet": 2e-4,
        "lr_text": 4e-5,
        "lr_token": 1e-2,
        "warmup_steps": 2,
        "steps": 3,
        "batch": 2,
        "accumulate": 1,
        "ema_decay": 0.0,
        "autocast": "none",
        "gradient_checkpointing": False,
        "prompt_dropout": 0.0,
        "prompt_noise": 0.0,
        "weight_defect": 0.5,
        "weight_object": 0.2,
        "weight_attention": 0.05,
        "background_weight": 0.3,
        "random_boxes": 30,
        "encoded_crops": 6,
        "reduction": "area",
        "attention_norm": "none",
        "crop_scale": (2.0, 4.0),
        "min_crop_px": 16,
        "scale_augment": (1.0, 1.125),
        "flip": True,
        "object": "surface",
        "curves": (),
        "preview_every": 0,
    }
    return DefectFillParams.model_validate(values | changes)


def references(types: tuple[str, ...] = ("hole", "long scratch")) -> list[Reference]:
    rng = np.random.default_rng(0)
    found = []
    for number, defect in enumerate(types):
        image = np.repeat(rng.integers(90, 160, (64, 64, 1)), 3, axis=2).astype(np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[20:36, 24 + number : 40 + number] = True
        image[mask] = 20
        found.append(Reference(f"{defect}-0", defect, image, mask))
    return found


def write_base(folder: Path, prediction_type: str = "v_prediction") -> Path:
    pipe = small_pipeline(SIDE, seed=0)
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    pipe.save_pretrained(folder)
    return folder
