"""Photos that are read again and again: thousands of requests fall on a few hundred of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

LIMIT_BYTES = 160 * 2**20
"""Two hundred photos of 400 x 400 pixels and what is measured of them; of large photos it holds few."""


class Sized(Protocol):
    """Anything that knows its memory, such as an array."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        ...


_Kept = TypeVar("_Kept", bound=Sized)
_LOCK = threading.Lock()
_KEPT: OrderedDict[Hashable, Any] = OrderedDict()


def kept(key: Hashable, make: Callable[[], _Kept]) -> _Kept:
    """What `make` gives, or gave under this key while what was used last fits into `LIMIT_BYTES`; not to be written to."""
    with _LOCK:
        if key not in _KEPT:
            _KEPT[key] = make()
            while len(_KEPT) > 1 and sum(one.nbytes for one in _KEPT.values()) > LIMIT_BYTES:
                _KEPT.popitem(last=False)
        _KEPT.move_to_end(key)
        return _KEPT[key]


def forget() -> None:
    """Drop everything: keys name files, and files of another run may have the same names and other contents."""
    with _LOCK:
        _KEPT.clear()
