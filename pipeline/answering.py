"""Asking a sampler: all candidates of many requests in one stream, drawn again where the guards refuse every one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.generators.protocol import Dropped, Request, Sampler
from pipeline.images import Picture
from pipeline.scenes import Placed
from pipeline.seeds import derive_seed
from pipeline.selection import Verdict
from pipeline.shards import Candidates

Judge = Callable[[Candidates, Picture], Sequence[Verdict]]
"""What the guards say of every candidate of a request, given the clean crop."""


@dataclass(frozen=True)
class Draws:
    """How often a request is answered.

    Attributes:
        candidates: Answers of one draw.
        redraws: Most further draws of a request while none of its candidates is accepted.
        judge: Accepts a candidate by finding no fault.
    """

    candidates: int
    redraws: int
    judge: Judge


@dataclass(frozen=True, slots=True)
class Answer:
    """A request with all its candidates, and what was said of each that has a picture."""

    entry: Candidates
    verdicts: tuple[Verdict, ...]

    def joined(self, more: Answer) -> Answer:
        """With a further draw behind these."""
        return Answer(self.entry.joined(more.entry), self.verdicts + more.verdicts)


def candidate_seed(request_id: str, number: int) -> int:
    """The seed a candidate owns, wherever and however often it is drawn."""
    return derive_seed("candidate", request_id, number)


def answer(sampler: Sampler, placed: Iterable[Placed], draws: Draws) -> Iterator[Answer]:
    """Every request as soon as it needs no further draw; those drawn again come last.

    Candidates of a further draw go on counting, and so have seeds of their own. Requests are taken from `placed` as the
    sampler asks for them, and only those that are drawn again are kept.
    """
    waiting, refused = placed, dict[str, Answer]()
    for draw in range(1 + draws.redraws):
        again: list[Placed] = []
        for asked, entry in _draw(sampler, waiting, range(draw * draws.candidates, (draw + 1) * draws.candidates)):
            found = tuple(draws.judge(entry, asked.request.clean))
            new = Answer(replace(entry, answered=any(verdict.fault is None for verdict in found)), found)
            before = refused.pop(asked.request.id, None)
            given = before.joined(new) if before else new
            if new.entry.answered or draw == draws.redraws:
                yield given
            else:
                refused[asked.request.id] = given
                again.append(asked)
        waiting = again


def _draw(sampler: Sampler, placed: Iterable[Placed], numbers: Sequence[int]) -> Iterator[tuple[Placed, Candidates]]:
    """Run the candidates of these numbers of all requests in one stream, so that the sampler's batches stay full."""
    asked: deque[Placed] = deque()

    def stream() -> Iterator[tuple[Request, int]]:
        for one in placed:
            asked.append(one)
            yield from ((one.request, candidate_seed(one.request.id, number)) for number in numbers)

    results = iter(sampler(stream()))
    while drawn := list(islice(results, len(numbers))):
        one = asked.popleft()
        assert len(drawn) == len(numbers), f"{one.request.id}: the sampler stopped in the middle"
        made = [r for r in drawn if not isinstance(r, Dropped)]
        yield (
            one,
            Candidates(
                one.record,
                tuple(part.mask for part in one.request.parts),
                tuple(r.image for r in made),
                tuple(r.changed for r in made),
                answered=False,
                early=tuple(r.early for r in drawn if r.early is not None),
                dropped=tuple(place for place, r in enumerate(drawn) if isinstance(r, Dropped)),
                detailed=tuple(place for place, r in enumerate(drawn) if not isinstance(r, Dropped) and r.detailed),
            ),
        )
    assert not asked, f"the sampler left out {len(asked)} requests"
