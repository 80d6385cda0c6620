"""Every generator of the catalogue obeys the protocol."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.generators import GENERATORS
from pipeline.generators.protocol import FitJob, Part, Request, SampleJob, Sampler
from pipeline.masks.composite import feathered
from pipeline.params import CopyPasteParams, CopyPasteSamplingParams
from tests.diffusion_toy import fit_params, references, request_of, sampling_params, write_base

FEATHER_PX = 2
FIT = {"copy_paste": CopyPasteParams(), "defectfill": fit_params()}
SAMPLE = {
    "copy_paste": CopyPasteSamplingParams(candidates=1),
    "defectfill": sampling_params(steps=3, guidance=2.0, strength=0.9),
}


def good() -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(90, 160, (80, 90, 3)).astype(np.uint8) for n in range(2)]


def requests() -> list[tuple[Request, int]]:
    """Three crops of different sides, each with its own warp and seed."""
    made = []
    for number, side in enumerate((24, 32, 50)):
        clean = np.random.default_rng(10 + number).integers(90, 160, (side, side, 3)).astype(np.uint8)
        mask = np.zeros((side, side), bool)
        mask[side // 4 : side // 2, side // 4 : side // 2] = True
        affine = np.array([[1.0, 0, -10.0 + number], [0, 1.0, -12.0]])
        made.append((request_of(f"r{number}", "hole", clean, mask, affine), 100 + number))
    return made


@pytest.fixture(scope="module", params=sorted(GENERATORS))
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    base = write_base(folder / "base")
    (folder / "work").mkdir()
    (folder / "fitted").mkdir()
    job = FitJob(FIT[request.param], references(), base, folder / "work", seed=0)
    GENERATORS[request.param]().fit(job, folder / "fitted")
    return request.param, base, folder / "fitted"


def sampler_of(fitted: tuple[str, Path, Path]) -> Sampler:
    name, base, folder = fitted
    job = SampleJob(SAMPLE[name], base, good(), FEATHER_PX, micro_batch=2, seed=0)
    return GENERATORS[name]().load(folder, job)


def test_answers_have_the_size_and_type_of_the_request(fitted):
    for (request, _), result in zip(requests(), sampler_of(fitted)(requests()), strict=True):
        assert result.image.shape == request.clean.shape and result.image.dtype == np.uint8
        assert result.changed.shape == request.mask.shape and result.changed.dtype == np.bool_


def test_outside_the_mask_and_its_feather_nothing_changes(fitted):
    for (request, _), result in zip(requests(), sampler_of(fitted)(requests()), strict=True):
        outside = feathered(request.mask, FEATHER_PX) == 0
        assert (result.image[outside] == request.clean[outside]).all()


def test_what_is_called_changed_did_change(fitted):
    for (request, _), result in zip(requests(), sampler_of(fitted)(requests()), strict=True):
        assert (result.image != request.clean).any(axis=2)[result.changed].all()


def test_several_defects_of_one_crop_are_answered_in_their_masks(fitted):
    (request, seed), second = requests()[2], np.zeros((50, 50), bool)
    second[34:44, 30:46] = True
    both = replace(
        request, parts=(*request.parts, Part("long scratch", second, "long scratch-0", np.array([[1.0, 0, 5], [0, 1, 8]])))
    )
    result = next(iter(sampler_of(fitted)([(both, seed)])))
    outside = feathered(both.mask, FEATHER_PX) == 0
    assert (result.image[outside] == both.clean[outside]).all()
    assert (result.image != both.clean)[second].any() and (result.image != both.clean).any(axis=2)[result.changed].all()
    if fitted[0] == "copy_paste":
        # The toy scratch is 20 everywhere under its mask (25..40, 20..35), which the second part's matrix moves by (5, 8).
        inside = second.copy()
        inside[:, :30], inside[:, 46:] = False, False
        assert (result.image[inside] == 20).all() and (result.image[request.mask] == 20).any()


def test_the_answer_depends_on_request_and_seed_alone(fitted):
    sampler = sampler_of(fitted)
    together = [r.image for r in sampler(requests())]
    backwards = [r.image for r in sampler(requests()[::-1])][::-1]
    alone = [next(iter(sampler([one]))).image for one in requests()]
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert (first == second).all() and (first == third).all()


def test_a_grey_photo_stays_grey_where_the_references_are_grey(fitted):
    request, seed = requests()[1]
    clean = np.repeat(request.clean[..., :1], 3, axis=2)
    grey = replace(request, clean=clean)
    image = next(iter(sampler_of(fitted)([(grey, seed)]))).image
    assert (image == image[..., :1]).all()
