"""What references say of the defects painted in their masks: detail on crops larger than the network, and strength."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.generators.defectfill.detail import coarse, light_ratio, strengthened, surface_fits, with_detail
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import ConceptError, DefectFillSampler
from pipeline.generators.protocol import FitJob, Part, Request, SampleJob, Synthetic
from pipeline.masks.composite import feathered
from pipeline.references import Reference
from tests.diffusion_toy import SIDE, fit_params, references, sampling_params, write_base

pytestmark = pytest.mark.slow

SAME_PLACE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def square(side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[10:30, 10:30] = True
    return mask


def picture(grey: int, inside: np.ndarray | int | None = None, side: int = 40) -> np.ndarray:
    found = np.full((side, side, 3), grey, np.uint8)
    if inside is not None:
        found[square(side)] = inside if isinstance(inside, int) else inside[square(side)][:, None]
    return found


def stripes(side: int = 40) -> np.ndarray:
    return np.where(np.arange(side)[None] % 2, 40, 60).repeat(side, 0).astype(np.uint8)


def test_the_coarse_part_of_a_constant_is_the_constant_up_to_the_rim_of_the_mask():
    values = np.full((40, 40, 3), 7.0, np.float32)
    values[~square()] = 1000.0  # what lies outside plays no part
    assert np.allclose(coarse(values, square(), 3.0)[square()], 7.0, atol=1e-3)


@pytest.mark.parametrize(("light", "level"), [(0.0, -50.0), (0.5, -40.0), (1.0, -30.0)])
def test_the_reference_gives_the_stripes_and_light_says_whose_level_they_have(light, level):
    # Surround 100 on both photos; the reference's defect has stripes of 40 and 60, what was painted is 30 darker.
    part = Part("hole", square(), "r", SAME_PLACE)
    painted = np.full((40, 40, 3), -30.0, np.float32)
    found = with_detail(painted, picture(100), part, picture(100, stripes()), 6.0, light)[square()]
    assert found.mean() == pytest.approx(level, abs=0.5)
    dark, bright = np.unique(found.round())[[0, -1]]
    assert bright - dark == pytest.approx(20, abs=3)


def test_a_darker_photo_gets_a_darker_defect_in_proportion():
    # Half the light around the mask, half the light of the defect: 30 instead of 60, on a clean level of 50.
    part = Part("hole", square(), "r", SAME_PLACE)
    found = with_detail(np.zeros((40, 40, 3), np.float32), picture(50), part, picture(100, 60), 6.0, 0.0)
    assert np.allclose(found[square()], 30 - 50)


def test_light_is_compared_around_the_mask_within_limits_and_not_where_nothing_is_around():
    assert light_ratio(picture(50), picture(100, 255), square()) == 0.5
    assert light_ratio(picture(10), picture(200), square()) == 0.5  # a twentieth would be no light at all
    assert light_ratio(picture(50), picture(100), np.ones((40, 40), bool)) == 1.0


def test_where_most_of_two_rings_is_the_same_the_light_is():
    # Black copper with two white lines around the mask; on the other photo one of the lines is missing.
    moved, clean = picture(0), picture(0)
    moved[:, [8, 31]], clean[:, 8] = 255, 255
    moved[8], clean[8] = 255, 255
    assert light_ratio(clean, moved, square()) == 1.0
    assert light_ratio(picture(0), picture(0), square()) == 1.0  # black says nothing of the light
    rim = picture(0)
    rim[9:31, 9:31] = 255  # a white defect reaches beyond its mask
    assert light_ratio(picture(0), rim, square()) == 1.0


@pytest.mark.parametrize(
    ("painted", "at_most", "gain"),
    [(-30, 4.0, 2.0), (-60, 4.0, 1.0), (-90, 4.0, 1.0), (30, 4.0, 1.0), (-30, 1.6, 1.6)],
    ids=["half as dark", "as dark", "darker", "bright instead of dark", "limited"],
)
def test_a_pale_defect_gets_as_dark_as_the_reference(painted: float, at_most: float, gain: float):
    # Surround 100 on both photos, the reference's defect is at 40.
    change, part = np.full((40, 40, 3), painted, np.float32), Part("hole", square(), "r", SAME_PLACE)
    found = strengthened(change, picture(100), part, picture(100, 40), at_most)
    assert np.allclose(found[square()], gain * painted, atol=1e-2)


def test_its_grain_stays_as_fine_as_it_was_painted():
    # Stripes of -20 and -40 where -60 is wanted: the level doubles, the stripes stay 20 apart.
    part = Part("hole", square(), "r", SAME_PLACE)
    change = np.where(np.arange(40) % 2, -20.0, -40.0)[None, :, None].repeat(40, 0).repeat(3, 2).astype(np.float32)
    found = strengthened(change, picture(100), part, picture(100, 40), 4.0)[square()]
    assert found.mean() == pytest.approx(-60, abs=1)
    dark, bright = np.unique(found.round())[[0, -1]]
    assert bright - dark == pytest.approx(20, abs=2)


def test_under_half_the_light_it_gets_half_as_dark():
    change, part = np.full((40, 40, 3), -10, np.float32), Part("hole", square(), "r", SAME_PLACE)
    found = strengthened(change, picture(50), part, picture(100, 40), 4.0)
    assert np.allclose(found[square()], 3.0 * -10, atol=1e-2)


def test_grey_in_black_copper_gets_white_and_no_stronger_than_that_takes():
    change, part = np.full((40, 40, 3), 100, np.float32), Part("pinhole", square(), "r", SAME_PLACE)
    found = strengthened(change, picture(0), part, picture(0, 255), 4.0)
    assert np.allclose(found[square()], 2.6 * 100, atol=1e-2)  # 2.5 leaves 250


def rough(deviation: float, side: int = 40) -> np.ndarray:
    return np.random.default_rng(1).normal(100, deviation, (side, side, 1)).repeat(3, axis=2).clip(0, 255).astype(np.uint8)


def test_a_reference_on_a_much_rougher_surface_is_of_another_product():
    part = Part("hole", square(), "r", SAME_PLACE)
    assert surface_fits(rough(5), part, rough(5)) and not surface_fits(rough(3), part, rough(15))
    assert surface_fits(rough(15), part, rough(5)), "a smoother one does"
    edge = picture(100)
    edge[:20, :, :] = 255
    assert surface_fits(picture(100), part, edge), "one edge across the ring is no roughness"
    bad = rough(5)
    bad[square()] = 10
    assert surface_fits(rough(5), part, bad), "nor is the defect's own"
    assert surface_fits(rough(3), Part("hole", np.ones((40, 40), bool), "r", SAME_PLACE), rough(15)), "nothing is around"


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("concept")
    base = write_base(folder / "base")
    (folder / "work").mkdir()
    fit(FitJob(fit_params(steps=2), references(), base, folder / "work", seed=0), folder / "fitted")
    return base, folder / "fitted"


def painted(concept: tuple[Path, Path], request: Request, known: tuple[Reference, ...], **changes: object) -> Synthetic:
    base, fitted = concept
    good = [np.random.default_rng(0).integers(90, 160, (80, 90, 3)).astype(np.uint8)]
    job = SampleJob(sampling_params(**changes), base, good, feather_px=2, micro_batch=2, seed=0, references=known)
    (answer,) = DefectFillSampler(fitted, job)([(request, 1)])
    assert isinstance(answer, Synthetic)
    return answer


DETAIL = {"from_shrink": 1.5, "coarse_px": 4, "light": 0.5}


def asked(side: int, affine: np.ndarray | None) -> tuple[Request, Reference]:
    clean = np.random.default_rng(3).integers(90, 160, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    photo = np.random.default_rng(4).integers(0, 60, (side, side, 3)).astype(np.uint8)
    return Request("r", clean, (Part("hole", mask, "hole-0", affine),)), Reference("hole-0", "hole", photo, mask)


@pytest.fixture
def any_change_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DefectFillSampler, "_change_without_concept", lambda *_: (5.0, 3.0))  # the toy learned nothing


@pytest.mark.usefixtures("any_change_counts")
@pytest.mark.parametrize(("side", "from_shrink"), [(2 * SIDE, 1.5), (SIDE // 2, 0)], ids=["a crop that is shrunk", "every crop"])
def test_a_crop_gets_the_detail_and_stays_clean_outside(concept, side: int, from_shrink: float):
    request, reference = asked(side, SAME_PLACE)
    wanted = DETAIL | {"from_shrink": from_shrink}
    plain, fine = painted(concept, request, (), detail=None), painted(concept, request, (reference,), detail=wanted)
    outside = feathered(request.mask, 2) == 0
    assert (fine.image[outside] == request.clean[outside]).all()
    shown = [np.corrcoef(one.image[request.mask].ravel(), reference.image[request.mask].ravel())[0, 1] for one in (plain, fine)]
    assert abs(shown[0]) < 0.2 and shown[1] > 0.8
    assert fine.detailed and not plain.detailed


@pytest.mark.usefixtures("any_change_counts")
@pytest.mark.parametrize(("side", "detail"), [(SIDE, None), (2 * SIDE, DETAIL)], ids=["as painted", "with detail"])
def test_a_defect_is_as_strong_as_the_reference_and_the_crop_stays_clean_outside(concept, side, detail):
    request, _ = asked(side, SAME_PLACE)
    bright = request.clean.copy()
    bright[request.mask] = 250  # this toy paints brighter than what was there
    reference = Reference("hole-0", "hole", bright, request.mask)
    plain = painted(concept, request, (reference,), detail=detail)
    strong = painted(concept, request, (reference,), detail=detail, contrast_gain=4.0)
    outside = feathered(request.mask, 2) == 0
    assert (strong.image[outside] == request.clean[outside]).all()
    level, before, after = (float(one[request.mask].mean()) for one in (reference.image, plain.image, strong.image))
    assert abs(after - level) < abs(before - level) - 1 and strong.detailed == (detail is not None)


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_what_hardly_changed_is_left_for_the_guards(concept, monkeypatch: pytest.MonkeyPatch, side: int):
    monkeypatch.setattr(DefectFillSampler, "_change_without_concept", lambda *_: (256.0, 256.0))  # nothing changes that much
    request, reference = asked(side, SAME_PLACE)
    plain = painted(concept, request, (), detail=None)
    same = painted(concept, request, (reference,), detail=DETAIL, contrast_gain=4.0)
    assert (plain.image == same.image).all()


@pytest.mark.parametrize(
    ("side", "affine"), [(SIDE, SAME_PLACE), (2 * SIDE, None)], ids=["a crop that is not shrunk", "a mask that was drawn"]
)
def test_others_are_painted_as_before(concept, side, affine):
    request, reference = asked(side, affine)
    plain, same = painted(concept, request, (), detail=None), painted(concept, request, (reference,), detail=DETAIL)
    assert (plain.image == same.image).all() and (plain.changed == same.changed).all()
    assert not same.detailed


@pytest.mark.usefixtures("any_change_counts")
def test_a_reference_on_a_rougher_surface_gives_no_detail(concept):
    request, _ = asked(2 * SIDE, SAME_PLACE)
    smooth = Request("r", np.full_like(request.clean, 120), request.parts)
    rougher = Reference("hole-0", "hole", rough(40, 2 * SIDE), request.mask)
    plain, same = painted(concept, smooth, (), detail=None), painted(concept, smooth, (rougher,), detail=DETAIL)
    assert (plain.image == same.image).all() and not same.detailed


@pytest.mark.usefixtures("any_change_counts")
def test_a_reference_nobody_handed_over_is_named(concept):
    request, _ = asked(2 * SIDE, SAME_PLACE)
    with pytest.raises(
        ConceptError, match=r"hand the references over with the job, or set synthesize\.defectfill\.detail to null"
    ):
        painted(concept, request, (), detail=DETAIL)
