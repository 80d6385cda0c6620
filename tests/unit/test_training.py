import pytest
import torch
from torch import nn

from pipeline import training
from pipeline.averaging import Ema
from pipeline.training import MAX_BAD_STEPS, DeviceError, DivergedError, LoopPlan, run_loop, torch_device


def plan(**changes: object) -> LoopPlan:
    return LoopPlan(**({"steps": 6, "seed": 0, "label": "toy", "checkpoint_every_s": -1.0} | changes))  # type: ignore[arg-type]


def setup() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    return net, torch.optim.AdamW(net.parameters(), lr=0.1)


def loss_of(net: nn.Linear) -> torch.Tensor:
    return (net(torch.randn(4, 2)) - 1).square().mean()


def test_a_run_killed_at_step_four_ends_like_one_that_was_not(tmp_path):
    whole, optimizer = setup()
    history = run_loop(plan(), lambda step: {"loss": loss_of(whole)}, optimizer, {"net": whole})
    net, optimizer = setup()

    def dies(step: int) -> dict[str, torch.Tensor]:
        if step == 4:
            raise KeyboardInterrupt
        return {"loss": loss_of(net)}

    with pytest.raises(KeyboardInterrupt):
        run_loop(plan(checkpoint=tmp_path / "c.pt"), dies, optimizer, {"net": net})
    net, optimizer = setup()
    resumed = run_loop(plan(checkpoint=tmp_path / "c.pt"), lambda step: {"loss": loss_of(net)}, optimizer, {"net": net})
    assert torch.equal(net.weight, whole.weight) and torch.equal(net.bias, whole.bias)
    assert resumed.losses == history.losses and len(resumed.losses) == 6


def test_a_finished_run_is_not_repeated(tmp_path):
    net, optimizer = setup()
    run_loop(plan(checkpoint=tmp_path / "c.pt"), lambda step: {"loss": loss_of(net)}, optimizer, {"net": net})
    kept = net.weight.clone()
    net, optimizer = setup()

    def never(step: int) -> dict[str, torch.Tensor]:
        raise AssertionError("no step is left")

    run_loop(plan(checkpoint=tmp_path / "c.pt"), never, optimizer, {"net": net})
    assert torch.equal(net.weight, kept)


def test_a_step_without_a_finite_loss_is_skipped_and_counted():
    net, optimizer = setup()
    seen = []

    def losses_at(step: int) -> dict[str, torch.Tensor]:
        seen.append(net.weight.detach().clone())
        return {"loss": loss_of(net) * (float("nan") if step == 2 else 1.0)}

    history = run_loop(plan(), losses_at, optimizer, {"net": net})
    assert history.skipped == 1 and len(history.losses) == 6
    assert torch.equal(seen[2], seen[3]) and not torch.equal(seen[3], seen[4])


def test_many_bad_steps_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path):
    net, optimizer = setup()
    with pytest.raises(DivergedError, match=f"no finite loss for {MAX_BAD_STEPS} steps in a row"):
        run_loop(
            plan(steps=100, checkpoint=tmp_path / "c.pt"),
            lambda step: {"loss": loss_of(net) * (float("inf") if step >= 3 else 1.0)},
            optimizer,
            {"net": net},
        )
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert saved["step"] == 3 and torch.isfinite(saved["net"]["weight"]).all()


def test_the_rate_warms_up_and_decays():
    rates = [plan(steps=12, warmup_steps=2, cosine=True).rate(step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[7] == pytest.approx(0.525) and rates[-1] < 0.1


def test_bars_are_quiet_when_nobody_watches(capsys):
    with training.progress(3, "toy") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_micro_batches_add_up_to_the_step_of_one_large_batch():
    """Gradient of the mean over 3 x 4 rows = mean of the three gradients; SGD shows it unscaled."""
    rows = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    nets = []
    for accumulate in (1, 3):
        net, _ = setup()
        parts = iter(rows if accumulate == 3 else [rows.reshape(12, 2)])
        history = run_loop(
            plan(steps=1, accumulate=accumulate, clip_norm=1e9),
            lambda step, net=net, parts=parts: {"loss": (net(next(parts)) - 1).square().mean()},
            torch.optim.SGD(net.parameters(), lr=0.1),
            {},
        )
        nets.append((net.weight, history.losses[0]["loss"]))
    (large, one), (small, mean) = nets
    assert torch.allclose(large, small, atol=1e-7) and one == pytest.approx(mean, rel=1e-6)


def test_a_micro_batch_without_a_finite_loss_skips_the_whole_step():
    net, optimizer = setup()
    before, calls = net.weight.clone(), iter([1.0, float("nan")])
    history = run_loop(plan(steps=1, accumulate=3), lambda step: {"loss": loss_of(net) * next(calls)}, optimizer, {})
    assert torch.equal(net.weight, before) and history.skipped == 1


def half_loss(net: nn.Linear) -> dict[str, torch.Tensor]:
    """Gradient 1 for each of the two weights, through half precision."""
    return {"loss": net.weight.half().float().sum()}


def test_a_scale_too_large_for_half_precision_is_halved_and_the_gradient_unscaled():
    net, _ = setup()
    start = net.weight.detach().clone()
    seen = []
    history = run_loop(
        plan(loss_scaling=True, clip_norm=1e9),
        lambda step: half_loss(net),
        torch.optim.SGD(net.parameters(), lr=0.1),
        {},
        watch=lambda done, values: seen.append(values["gradient_norm"]),
    )
    # 65536 is infinite in half precision, 32768 is not.
    assert history.skipped == 1 and torch.allclose(net.weight, start - 0.5)
    assert seen[0] == float("inf") and seen[1:] == pytest.approx([2**0.5] * 5)


def test_the_loss_scale_is_resumed(tmp_path):
    def losses_at(net: nn.Linear, last: int):
        def losses(step: int) -> dict[str, torch.Tensor]:
            if step == last:
                raise KeyboardInterrupt
            return half_loss(net)

        return losses

    net, optimizer = setup()
    resumed = plan(loss_scaling=True, checkpoint=tmp_path / "c.pt")
    with pytest.raises(KeyboardInterrupt):
        run_loop(resumed, losses_at(net, 4), optimizer, {"net": net})
    assert torch.load(tmp_path / "c.pt", weights_only=True)["scaler"]["scale"] == 32768.0
    net, optimizer = setup()
    history = run_loop(resumed, losses_at(net, -1), optimizer, {"net": net})
    assert history.skipped == 1 and len(history.losses) == 6, "a scale that began anew would have skipped a second step"


def test_what_is_watched_names_losses_rates_and_the_gradient_norm_before_clipping():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 3.0)
    optimizer = torch.optim.SGD([{"params": net.parameters(), "lr": 0.5, "name": "only"}])
    seen = []
    run_loop(
        plan(steps=2, warmup_steps=2, clip_norm=1.0),
        lambda step: {"loss": net.weight.square().sum(), "other": torch.tensor(7.0)},
        optimizer,
        {},
        watch=lambda done, values: seen.append((done, values)),
    )
    # d(w^2)/dw = 2 w = 6, clipped to 1, times half the rate of 0.5: 3 - 0.25.
    assert seen[0] == (1, {"loss": 9.0, "other": 7.0, "gradient_norm": 6.0, "rate/only": 0.25})
    assert seen[1][1]["gradient_norm"] == pytest.approx(5.5) and seen[1][1]["rate/only"] == 0.5


def test_the_average_follows_with_the_decay_of_its_ramp_and_is_restored():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = Ema(net, decay=0.9)
    nn.init.constant_(net.weight, 1.0)
    ema.update(net)
    # First decay: min(0.9, 2 / 11).
    assert ema.average["weight"].item() == pytest.approx(1 - 2 / 11)
    other = Ema(net, decay=0.9)
    other.load_state_dict(ema.state_dict())
    other.update(net), ema.update(net)
    assert torch.equal(other.average["weight"], ema.average["weight"]) and other.updates == 2


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    assert torch_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' is not there; this machine and this build of torch have cpu"):
        torch_device("cuda")
