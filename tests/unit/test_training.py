import pytest
import torch
from torch import nn

from pipeline import training
from pipeline.training import MAX_BAD_STEPS, DivergedError, LoopPlan, run_loop


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
