"""The catalogue of defects and the surfaces each occurs on."""

from __future__ import annotations

from pipeline.procedural import marks, structure
from pipeline.procedural.marks import Defect

FABRIC = frozenset({"plain_weave", "twill", "knit"})
METAL = frozenset({"brushed_metal", "cast_metal", "ground_steel"})
HARD = METAL | {"concrete", "magnetic_ceramic", "painted_panel", "wood"}
CIRCUIT = frozenset({"printed_circuit"})
ALL = HARD | FABRIC | {"leather"}

DEFECTS: dict[str, tuple[Defect, frozenset[str]]] = {
    "blowhole": (marks.blowhole, METAL | {"concrete", "magnetic_ceramic", "painted_panel"}),
    "broken_end": (structure.broken_end, FABRIC),
    "burn": (marks.burn, ALL),
    "crack": (marks.crack, HARD | {"leather"}),
    "dent": (marks.dent, METAL | {"leather", "magnetic_ceramic", "painted_panel", "wood"}),
    "edge_break": (structure.edge_break, HARD),
    "fray": (structure.fray, ALL),
    "hole": (marks.hole, ALL | CIRCUIT),
    "missing_thread": (structure.missing_thread, FABRIC),
    "mousebite": (structure.mousebite, CIRCUIT),
    "oil": (marks.oil, ALL),
    "open": (structure.open_circuit, CIRCUIT),
    "scratch": (marks.scratch, ALL | CIRCUIT),
    "short": (structure.short, CIRCUIT),
    "spot": (marks.spot, ALL | CIRCUIT),
    "spur": (structure.spur, CIRCUIT),
    "stain": (marks.stain, ALL),
    "thick_thread": (structure.thick_thread, FABRIC),
    "uneven": (marks.uneven, ALL),
}

DEFECT_TYPES = tuple(sorted(DEFECTS))


def defects_on(family: str) -> tuple[str, ...]:
    """Names of the defects that occur on a surface family."""
    return tuple(name for name in DEFECT_TYPES if family in DEFECTS[name][1])
