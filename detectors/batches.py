"""The images of a step: how many real, good and synthetic ones, which, and augmented how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from detectors.datasets import Example
from detectors.params import MixParams, TrainParams
from detectors.tiling import LargeExample
from pipeline.seeds import derive_seed

Pooled = Example | LargeExample


@dataclass(frozen=True)
class Pools:
    """What batches are drawn from; `synthetic` is empty in arms without, `real` in arms of synthetic defects alone."""

    real: tuple[Pooled, ...]
    good: tuple[Pooled, ...]
    synthetic: tuple[Pooled, ...] = ()


@dataclass(frozen=True)
class Counts:
    """How many images of each kind one batch has."""

    real: int
    good: int
    synthetic: int


def batch_counts(batch: int, negative_share: float, synthetic_share: float, pools: Pools) -> Counts:
    """Exact counts, the same at every step: shares are rounded half up, negatives first, then the synthetic ones.

    Every batch keeps at least one defective image. A data set without good photos has no negatives; where one of the pools of
    defects is empty, the other fills its place.
    """
    good = min(batch - 1, int(batch * negative_share + 0.5)) if pools.good else 0
    share = 0.0 if not pools.synthetic else synthetic_share if pools.real else 1.0
    synthetic = int((batch - good) * share + 0.5)
    return Counts(batch - good - synthetic, good, synthetic)


def _draw(size: int, count: int, *key: object) -> list[int]:
    """`count` indices below `size`, none twice before all came once."""
    rng = np.random.default_rng(derive_seed(*key))
    rounds = -(-count // size) if count else 0
    return [int(i) for _ in range(rounds) for i in rng.permutation(size)][:count]


def draw_batch(pools: Pools, counts: Counts, seed: int, step: int) -> list[tuple[Pooled, int]]:
    """Examples of one step, each with the seed of its augmentation.

    A pool's draw depends on seed and step alone: arms see the same good images, and the real defects of an arm with synthetic
    ones are the first of those the arm `real` sees at that step, augmented with the same seed.
    """
    chosen: list[tuple[Pooled, int]] = []
    for kind, count in (("real", counts.real), ("synthetic", counts.synthetic), ("good", counts.good)):
        pool: tuple[Pooled, ...] = getattr(pools, kind)
        for place, index in enumerate(_draw(len(pool), count, seed, "batch", kind, step)):
            chosen.append((pool[index], derive_seed(seed, "augment", kind, step, place)))
    return chosen


@dataclass(frozen=True)
class Batches:
    """What the steps of one training are drawn from.

    Attributes:
        pools: Examples by kind.
        counts: Of a batch.
        late: Of a batch after the last step with synthetic images.
        last_synthetic: That step.
        augment: From an image and a seed to what the network sees of it.
        seed: Of the fold.
    """

    pools: Pools
    counts: Counts
    late: Counts
    last_synthetic: int
    augment: Callable[[Pooled, int], Example]
    seed: int

    def at(self, step: int) -> dict[bool, list[Example]]:
        """The augmented examples of a step, by whether they are synthetic."""
        counts = self.counts if step < self.last_synthetic else self.late
        drawn = [self.augment(*one) for one in draw_batch(self.pools, counts, self.seed, step)]
        synthetic = slice(counts.real, counts.real + counts.synthetic)
        made = drawn[synthetic]
        del drawn[synthetic]
        return {False: drawn, True: made}


def open_batches(
    train: TrainParams, mix: MixParams, pools: Pools, augment: Callable[[Pooled, int], Example], seed: int
) -> Batches:
    """Where there are no real defects, there is nothing to go on with and `mix.until` does not hold."""
    shares = (train.batch, train.negative_share, mix.share)
    counts = batch_counts(*shares, pools)
    late = batch_counts(*shares, replace(pools, synthetic=())) if pools.real else counts
    return Batches(pools, counts, late, round(mix.until * train.steps), augment, seed)
