"""Photos that are read again and again: thousands of requests fall on a few hundred of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from pipeline.images import Picture, read_rgb

LIMIT_BYTES = 96 * 2**20
"""Two hundred photos of 400 x 400 pixels; of large photos it holds few, and those take longer to read than to keep."""

_LOCK = threading.Lock()
_PHOTOS: OrderedDict[Path, Picture] = OrderedDict()


def read_photo(path: Path) -> Picture:
    """As `read_rgb`, but not to be written to, and from memory while the photos used last fit into `LIMIT_BYTES`.

    Raises:
        PictureError: Names a file that cannot be decoded.
    """
    with _LOCK:
        if path not in _PHOTOS:
            photo = read_rgb(path)
            photo.flags.writeable = False
            _PHOTOS[path] = photo
            while len(_PHOTOS) > 1 and sum(kept.nbytes for kept in _PHOTOS.values()) > LIMIT_BYTES:
                _PHOTOS.popitem(last=False)
        _PHOTOS.move_to_end(path)
        return _PHOTOS[path]
