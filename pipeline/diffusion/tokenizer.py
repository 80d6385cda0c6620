"""A CLIP tokenizer small enough to live beside a small pipeline: bytes plus the words of our prompts."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

WORDS = ("a", "of", "photo", "with", "surface", "good", "part", "texture", "metal", "tile", "board", "fabric", "defect")
MAX_TOKENS = 24


def small_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in which each of `WORDS` is one token and any other text falls back to bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            if left not in vocabulary:
                vocabulary.append(left)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=MAX_TOKENS)
