"""Where every candidate comes from: one row each, written by whoever makes its shard, and joined into one manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.answering import Answer, candidate_seed
from pipeline.records import MANIFEST
from pipeline.selection import RANKED_LOW, Verdict
from pipeline.shards import whole_file

DECIMALS = 6
WITHOUT_PICTURE = {field.name: None for field in fields(Verdict)} | {"fault": RANKED_LOW}
"""What is said of a candidate that was given up before it was finished."""


@dataclass(frozen=True)
class Origin:
    """What all candidates of a fold were made with.

    Attributes:
        generator: Its name.
        concept: Digest of the concept's folder.
        base: Digest of the base's folder.
        targets: Digest of `data/targets.yaml`.
    """

    generator: str
    concept: str
    base: str
    targets: str


def rows(answer: Answer, origin: Origin, shard: str) -> Iterator[dict[str, Any]]:
    """One row a candidate: shard, request, seed, what it is made from, and what the guards said."""
    entry, request = answer.entry, answer.entry.request
    said = {number: asdict(verdict) for number, verdict in zip(entry.numbers, answer.verdicts, strict=True)}
    for number in range(entry.drawn):
        scores = said.get(number, WITHOUT_PICTURE) | ({"early": entry.early[number]} if entry.early else {})
        yield {
            **asdict(origin),
            **{name: round(value, DECIMALS) if isinstance(value, float) else value for name, value in scores.items()},
            "shard": shard,
            "request": request.id,
            "candidate": number,
            "seed": candidate_seed(request.id, number),
            "scene": request.scene,
            "clean": request.clean,
            "window": asdict(request.window),
            "parts": [asdict(part) for part in request.parts],
        }


def rows_text(answer: Answer, origin: Origin, shard: str) -> str:
    """The rows as JSON lines."""
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows(answer, origin, shard))
    return "".join(line + "\n" for line in lines)


def join_rows(parts: Iterable[Path], folder: Path) -> None:
    """Write `folder/manifest.jsonl` of the shards' rows, one shard in memory at a time; whole or not at all.

    Raises:
        OSError: Names the file if it cannot be written.
    """
    with whole_file(folder / MANIFEST) as temporary, temporary.open("wb") as manifest:
        for part in parts:
            manifest.write(part.read_bytes())


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of `folder/manifest.jsonl`, one at a time."""
    with (folder / MANIFEST).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def outcome(rows: Iterable[Mapping[str, Any]], candidates: int) -> dict[str, int]:
    """What came of the requests, when one draw has `candidates` answers."""
    found = {"requests": 0, "defects": 0, "candidates": 0, "requests_drawn_again": 0, "requests_without_answer": 0}
    for _, group in groupby(rows, key=lambda row: row["request"]):
        same = list(group)
        faults = [row["fault"] for row in same]
        found["requests"] += 1
        found["defects"] += len(same[0]["parts"])
        found["candidates"] += len(faults)
        found["requests_drawn_again"] += len(faults) > candidates
        found["requests_without_answer"] += None not in faults
    return found
