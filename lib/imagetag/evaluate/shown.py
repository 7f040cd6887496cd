"""Pictures as pages show them: thumbnails, and where a model looks in them.

What does not depend on the tag, which is nearly all of the work, is kept for the tags that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset import GREY, Resize, load_pixels
from imagetag.evaluate.gradcam import GradCam, on_picture, overlay
from imagetag.evaluate.page import Pictures
from imagetag.imaging import load_rgb
from imagetag.pages import jpeg, shrunk

_MOST = 256 << 20  # bytes that are kept


@dataclass(frozen=True)
class _Shown:
    """A picture's thumbnail as a JPEG, and what the network below a head makes of the picture."""

    thumbnail: bytes
    maps: NDArray[np.float32] | None

    @property
    def size(self) -> int:
        return len(self.thumbnail) + (0 if self.maps is None else self.maps.nbytes)


class ShownPictures:
    """Makes what pages show of pictures; each is decoded once as long as it is kept.

    Args:
        resize: how pictures are fitted into the camera's model,
        fill: and the colour of the bars beside them, in each channel, 0..255.
        most: bytes that are kept at the most: those are let go that were asked for longest ago.

    """

    def __init__(self, resize: Resize, fill: int = GREY, most: int = _MOST) -> None:
        self._resize, self._fill = resize, fill
        self._kept: LRUCache[str, _Shown] = LRUCache(most, getsizeof=lambda shown: shown.size)

    def missing(self, md5s: Sequence[str]) -> list[str]:
        """Return those pictures of which nothing is kept: their files are needed."""
        return [md5 for md5 in md5s if md5 not in self._kept]

    def of(
        self, md5s: Sequence[str], files: Mapping[str, Path], camera: GradCam | None
    ) -> Pictures:
        """Return thumbnails of those pictures that are kept or have a file, and overlays.

        Args:
            md5s: of the pictures.
            files: of those of `missing`, as far as there are any.
            camera: shows where the model looks, by the network that is always the same and a head
                that need not be; None for no overlays.

        """
        thumbnails, overlays = {}, {}
        for md5 in md5s:
            shown = self._kept.get(md5)
            if shown is None:
                if md5 not in files:
                    continue
                shown = self._make(files[md5], camera)
                with suppress(ValueError):  # larger than all that may be kept
                    self._kept[md5] = shown
            thumbnails[md5] = shown.thumbnail
            if camera is not None and shown.maps is not None:
                picture = np.asarray(Image.open(BytesIO(shown.thumbnail)))
                heat = camera.heatmaps_of(shown.maps[np.newaxis])[0]
                whole = on_picture(heat, (picture.shape[0], picture.shape[1]), self._resize)
                overlays[md5] = jpeg(overlay(picture, whole))
        return Pictures(thumbnails, overlays)

    def _make(self, file: Path, camera: GradCam | None) -> _Shown:
        data = file.read_bytes()
        thumbnail = jpeg(shrunk(load_rgb(data, at_least=(256, 256))))
        if camera is None:
            return _Shown(thumbnail, None)
        pixels = load_pixels(data, camera.size, self._resize, self._fill)
        return _Shown(thumbnail, camera.maps(pixels[np.newaxis])[0])
