"""A CLIP tokenizer small enough to live beside a small pipeline: bytes plus the words of our prompts."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

# fmt: off
WORDS = (
    "a", "of", "photo", "with", "surface", "good", "part", "texture", "metal", "tile", "board", "fabric", "defect",
    "brushed", "cast", "concrete", "ground", "steel", "knit", "leather", "magnetic", "ceramic", "painted", "panel", "plain",
    "weave", "printed", "circuit", "twill", "wood",
    "blowhole", "broken", "end", "burn", "crack", "dent", "edge", "break", "fray", "hole", "missing", "thread", "mousebite",
    "oil", "open", "scratch", "short", "spot", "spur", "stain", "thick", "uneven",
)
# fmt: on
"""The plain words, and those that name the surfaces and defects of `pipeline.procedural`."""
MAX_TOKENS = 24


def small_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in which each of `WORDS` is one token and any other text falls back to bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    ranks: dict[tuple[str, str], int] = {}
    for word in WORDS:
        left, *others = _merged([*word[:-1], word[-1] + "</w>"], ranks)
        for right in others:
            ranks[left, right] = len(ranks)
            left += right
            vocabulary.append(left)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=list(ranks), model_max_length=MAX_TOKENS)


def _merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """What byte-pair encoding makes of a word so far; later merges have lower rank, so they cannot undo earlier words."""
    while len(pieces) > 1:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: ranks[pair])
        joined: list[str] = []
        for piece in pieces:
            if joined and joined[-1] == first and piece == second:
                joined[-1] = first + second
            else:
                joined.append(piece)
        pieces = joined
    return pieces
