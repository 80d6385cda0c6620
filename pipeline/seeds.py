"""Seeds that belong to things, not to the order in which things are done."""

from __future__ import annotations

import hashlib


def derive_seed(*key: object) -> int:
    """63-bit seed of a key; equal in every process (unlike `hash`), different for any other key."""
    text = "/".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
