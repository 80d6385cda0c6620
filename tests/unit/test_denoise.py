"""DDIM, DPM-Solver++ and UniPC: each finds the answer of a denoiser known in closed form, and nothing is NaN at zero SNR."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from pipeline.diffusion.components import EMBEDDED
from pipeline.diffusion.denoise import Conditions, Running, Trajectory, advance, inpaint, regrouped, start

MEAN, SPREAD = 0.7, 2.0
SHAPE = (2, 4, 6, 6)
SOLVERS = ["ddim", "dpm", "unipc"]


def embedded_scheduler(**changes: object) -> DDIMScheduler:
    return DDIMScheduler.from_config(DDIMScheduler.load_config(EMBEDDED, subfolder="scheduler"), **changes)


class Gaussian:
    """The perfect denoiser of latents drawn from N(MEAN, SPREAD^2): E[x_0 | x_t], as epsilon or velocity."""

    def __init__(self, scheduler: DDIMScheduler) -> None:
        self._signal, self._kind = scheduler.alphas_cumprod.double(), scheduler.config["prediction_type"]
        self.calls: list[int] = []

    def __call__(self, fed: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        self.calls.append(int(step))
        noisy, signal = fed[:, :4].double(), self._signal[step]
        a, s = signal.sqrt(), (1 - signal).sqrt()
        clean = MEAN + SPREAD**2 * a / (a**2 * SPREAD**2 + s**2) * (noisy - a * MEAN)
        noise = (noisy - a * clean) / s
        return SimpleNamespace(sample=(noise if self._kind == "epsilon" else a * noise - s * clean).float())


def conditions(clean: Tensor) -> Conditions:
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[:, :, 1:4, 2:5] = 1
    text = torch.zeros(SHAPE[0], 3, 8)
    return Conditions(clean, mask, torch.zeros(SHAPE), text, text)


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def run(scheduler: DDIMScheduler, path: Trajectory, clean: Tensor | None = None) -> Tensor:
    given = conditions(torch.zeros(SHAPE) if clean is None else clean)
    return inpaint(Gaussian(scheduler), scheduler, given, noise(), path)


def ending(scheduler: DDIMScheduler) -> Tensor:
    """Where pure noise at the last time ends: the flow of a Gaussian keeps each value's place in it, in spreads from the mean."""
    signal = scheduler.alphas_cumprod[-1]
    return MEAN + SPREAD * (noise() - signal.sqrt() * MEAN) / (signal * SPREAD**2 + 1 - signal).sqrt()


def error(scheduler: DDIMScheduler, solver: str, steps: int) -> float:
    """Mean distance to the exact answer, latents having a spread of 2."""
    found = run(scheduler, Trajectory(solver, steps, guidance=1.0, strength=1.0, blend=False))
    return float((found - ending(scheduler)).abs().mean())


def test_with_many_steps_every_solver_reaches_the_exact_answer():
    assert error(embedded_scheduler(), "ddim", 500) < 0.01
    assert error(embedded_scheduler(), "dpm", 100) < 0.01
    assert error(embedded_scheduler(), "unipc", 100) < 0.01


def test_with_few_steps_the_second_order_solvers_are_nearer_to_it():
    first, *second = (error(embedded_scheduler(), solver, 20) for solver in SOLVERS)
    assert max(second) < first / 3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_schedulers_prediction_type_is_honoured(kind: str):
    """With Stable Diffusion's schedule, which keeps some signal at its end."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}
    scheduler = DDIMScheduler(**config, set_alpha_to_one=False, prediction_type=kind, timestep_spacing="trailing")
    assert error(scheduler, "ddim", 500) < 0.02
    assert error(scheduler, "dpm", 100) < 0.02
    assert error(scheduler, "unipc", 100) < 0.02


@pytest.mark.parametrize("scheduler", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 16])
@pytest.mark.parametrize("blend", [True, False])
def test_pure_noise_at_zero_snr_gives_no_nan(scheduler: str, steps: int, blend: bool):
    found = run(embedded_scheduler(), Trajectory(scheduler, steps, guidance=2.0, strength=1.0, blend=blend))
    assert torch.isfinite(found).all() and float(found.abs().max()) < 20


def test_epsilon_at_zero_snr_is_refused_and_runs_from_below():
    scheduler = embedded_scheduler(prediction_type="epsilon")
    for name in SOLVERS:
        with pytest.raises(ValueError, match="predicts epsilon and its schedule leaves no signal at time 999"):
            run(scheduler, Trajectory(name, 10, 1.0, 1.0, blend=False))
        assert torch.isfinite(run(scheduler, Trajectory(name, 10, 1.0, 0.9, blend=False))).all()


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_pure_noise_without_blending_never_sees_the_clean_latent(scheduler: str):
    path = Trajectory(scheduler, 6, guidance=1.0, strength=1.0, blend=False)
    assert torch.equal(run(embedded_scheduler(), path), run(embedded_scheduler(), path, torch.full(SHAPE, 9.0)))


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_a_start_below_strength_one_is_the_clean_latent_noised_to_that_level(scheduler: str):
    """With one step of a thousand left, only noise of deviation 0.03 was added."""
    clean = torch.full(SHAPE, 5.0)
    found = run(embedded_scheduler(), Trajectory(scheduler, 1000, 1.0, 0.001, blend=False), clean)
    assert torch.allclose(found, clean, atol=0.15)


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_blending_keeps_the_unmasked_latent_exactly(scheduler: str):
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    keep = conditions(clean).mask.expand(SHAPE) == 0
    blended, free = (run(embedded_scheduler(), Trajectory(scheduler, 5, 1.0, 1.0, blend), clean) for blend in (True, False))
    assert torch.equal(blended[keep], clean[keep]) and not torch.equal(free[keep], clean[keep])


@pytest.mark.parametrize(("steps", "strength", "run_steps"), [(10, 1.0, 10), (10, 0.9, 9), (10, 0.29, 2), (10, 0.05, 1)])
@pytest.mark.parametrize("scheduler", SOLVERS)
def test_as_many_steps_are_run_as_the_stock_pipeline_would(scheduler: str, steps: int, strength: float, run_steps: int):
    made = embedded_scheduler()
    denoiser = Gaussian(made)
    given = conditions(torch.zeros(SHAPE))
    inpaint(denoiser, made, given, noise(), Trajectory(scheduler, steps, 1.0, strength, blend=True))
    assert len(denoiser.calls) == run_steps and denoiser.calls == sorted(denoiser.calls, reverse=True)


def test_guidance_one_asks_the_network_for_a_single_batch():
    sizes = []

    class Spy(Gaussian):
        def __call__(self, fed: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
            sizes.append((len(fed), len(encoder_hidden_states)))
            return super().__call__(fed, step, encoder_hidden_states)

    made = embedded_scheduler()
    for guidance in (1.0, 3.0):
        inpaint(Spy(made), made, conditions(torch.zeros(SHAPE)), noise(), Trajectory("ddim", 1, guidance, 1.0, blend=True))
    assert sizes == [(2, 2), (4, 4)]


def test_guidance_outside_its_interval_is_none_at_half_the_cost():
    """Trailing steps of 1000 in ten: 999, 899, ... 99; the interval holds 699, 599, 499 and 399."""
    made, guided = embedded_scheduler(), {}

    class Spy(Gaussian):
        def __call__(self, fed: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
            guided[int(step)] = len(fed) == 2 * SHAPE[0]
            return super().__call__(fed, step, encoder_hidden_states)

    path = Trajectory("ddim", 10, 3.0, 1.0, blend=False, guidance_interval=(0.3, 0.7))
    inpaint(Spy(made), made, conditions(torch.zeros(SHAPE)), noise(), path)
    assert [time for time, doubled in guided.items() if doubled] == [699, 599, 499, 399] and len(guided) == 10


class Prompted(Gaussian):
    """A denoiser that listens: the text shifts what it predicts."""

    def __call__(self, fed: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        answer = super().__call__(fed, step, encoder_hidden_states).sample
        return SimpleNamespace(sample=answer + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None])


def test_an_interval_of_all_noise_times_is_plain_guidance_and_a_part_of_them_is_not():
    made = embedded_scheduler()
    told = conditions(torch.zeros(SHAPE))
    given = Conditions(told.clean, told.mask, told.background, told.text + 1.0, told.empty)
    whole, part, none = (
        inpaint(Prompted(made), made, given, noise(), Trajectory("dpm", 8, scale, 1.0, False, interval))
        for scale, interval in ((3.0, (0.0, 1.0)), (3.0, (0.2, 0.6)), (1.0, (0.0, 1.0)))
    )
    assert torch.equal(whole, inpaint(Prompted(made), made, given, noise(), Trajectory("dpm", 8, 3.0, 1.0, False)))
    assert not torch.equal(part, whole) and not torch.equal(part, none)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_put_into_other_batches_on_the_way_end_as_if_they_had_stayed(solver: str):
    """Also what a multistep solver remembers of each row goes along."""
    made, path = embedded_scheduler(), Trajectory(solver, 9, 1.0, 0.9, blend=True)
    clean = [torch.full(SHAPE, level) for level in (0.0, 1.0)]
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]

    def begun() -> list[Running]:
        parts = [start(made, conditions(c), n, path) for c, n in zip(clean, noises, strict=True)]
        for part in parts:
            advance(Gaussian(made), part, 4)
        return parts

    mixed = [regrouped(begun(), torch.tensor(rows)) for rows in ([3, 0], [2, 2])]
    whole = torch.cat([inpaint(Gaussian(made), made, conditions(c), n, path) for c, n in zip(clean, noises, strict=True)])
    for running, rows in zip(mixed, ([3, 0], [2, 2]), strict=True):
        advance(Gaussian(made), running, len(running.times))
        assert torch.equal(running.latents, whole[rows])


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_early_prediction_is_that_of_the_clean_latent(solver: str):
    """A Gaussian's best guess from little noise is near what the trajectory ends in."""
    made = embedded_scheduler()
    running = start(made, conditions(torch.zeros(SHAPE)), noise(), Trajectory(solver, 50, 1.0, 1.0, blend=False))
    advance(Gaussian(made), running, 49)
    assert torch.allclose(running.predicted, ending(made), atol=0.2)
