"""Pictures that pages show are decoded once for all tags, in a bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imagetag.evaluate.gradcam import GradCam
from imagetag.evaluate.shown import ShownPictures
from imagetag.imaging import images
from tests.builders.pictures import encoded


class Camera:
    """Sees what is red, times what its head makes of that."""

    size = (8, 8)

    def __init__(self) -> None:
        self.seen, self.weight = 0, 1.0

    def maps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen += len(pixels)
        return (pixels[..., :1] / 255).astype(np.float32)

    def heatmaps_of(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        return (maps[..., 0] * self.weight).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for number, name in enumerate(("a", "b", "c")):
        picture = Image.new("RGB", (300, 200), (250, 60 * number, 0))
        found[name] = tmp_path / f"{name}.png"
        found[name].write_bytes(encoded(picture, "PNG"))
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has been decoded, a file twice: for its thumbnail, and for the camera."""
    found: list[Any] = []
    decode: Callable[..., Any] = images._decoded

    def counted(source: Any, at_least: Any) -> Any:
        found.append(source)
        return decode(source, at_least)

    monkeypatch.setattr(images, "_decoded", counted)
    return found


def test_a_picture_is_decoded_for_the_first_tag_and_drawn_for_each(
    files: dict[str, Path], decoded: list[Any]
) -> None:
    camera = Camera()
    shown = ShownPictures("letterbox")
    assert shown.missing(["a", "b", "z"]) == ["a", "b", "z"]
    first = shown.of(["a", "b", "z"], files, cast("GradCam", camera))
    assert set(first.thumbnails) == set(first.overlays) == {"a", "b"}  # z has no file
    assert (camera.seen, len(decoded)) == (2, 4)
    with Image.open(io.BytesIO(first.overlays["a"])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 171))
    camera.weight = 0.0  # the head of another tag
    assert shown.missing(["a", "b", "c"]) == ["c"]
    second = shown.of(["a", "b"], {}, cast("GradCam", camera))
    assert second.thumbnails == first.thumbnails
    assert second.overlays != first.overlays
    assert (camera.seen, len(decoded)) == (2, 4)


def test_without_a_camera_there_are_thumbnails_alone(files: dict[str, Path]) -> None:
    found = ShownPictures("letterbox").of(["a"], files, None)
    assert set(found.thumbnails) == {"a"}
    assert not found.overlays


@pytest.mark.parametrize("fill", [128, 255])
def test_a_camera_sees_the_bars_that_its_network_knows(files: dict[str, Path], fill: int) -> None:
    seen: list[NDArray[np.uint8]] = []

    class Noting(Camera):
        def maps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            seen.append(pixels)
            return Camera.maps(self, pixels)

    ShownPictures("letterbox", fill).of(["a"], files, cast("GradCam", Noting()))
    [pixels] = seen
    assert (pixels[0, 0] == fill).all()


def test_what_was_asked_for_longest_ago_is_let_go_where_there_is_no_room(
    files: dict[str, Path],
) -> None:
    one = ShownPictures("letterbox", most=10**9)
    one.of(["a"], files, cast("GradCam", Camera()))
    shown = ShownPictures("letterbox", most=int(2 * one._kept.currsize) + 100)
    for names in (["a"], ["b"], ["a"], ["c"]):
        shown.of(names, files, cast("GradCam", Camera()))
    assert shown.missing(["a", "b", "c"]) == ["b"]
    assert shown._kept.currsize <= shown._kept.maxsize
    tiny = ShownPictures("letterbox", most=10)
    assert set(tiny.of(["a", "b"], files, None).thumbnails) == {"a", "b"}
    assert tiny.missing(["a", "b"]) == ["a", "b"]
