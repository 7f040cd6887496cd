"""From a file's bytes to pixels as a graph of TensorFlow's operations, saved with a SavedModel.

What `dataset.load_pixels` does with Pillow is repeated here: decode, onto white, reduce, resize,
crop or bars.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from imagetag.dataset import GREY, Resize
from imagetag.imaging import Size

_MAX_PIXELS = 50_000_000  # of a picture: decoding it takes some 26 bytes a pixel


def load_pixels(data: Any, size: Size, resize: Resize, bars: int = GREY) -> Any:
    """Return what `dataset.load_pixels` does, within a level or two, as a graph of operations.

    But EXIF is not read, and neither GIF nor a BMP with a palette is taken: TensorFlow makes a
    GIF's transparent pixels black, and takes the numbers of a BMP's colours for grey.

    Args:
        data: a string tensor, the file's bytes.
        size: (height, width) in pixels to fit the picture into.
        resize: how.
        bars: their colour, in each channel, 0..255.

    Returns:
        `(height, width, 3)` float32, RGB, whole numbers in 0..255.

    """
    head = tf.strings.join([tf.strings.substr(data, 0, 32), b"\0" * 32])

    def begins(text: bytes, at: int = 0) -> Any:
        return tf.strings.substr(head, at, len(text)) == text

    picture, shape = tf.case(
        [
            (begins(b"\xff\xd8\xff"), lambda: _decode_jpeg(data, size, resize)),
            (begins(b"\x89PNG"), lambda: _in_full(_decode_png(data, head))),
            (begins(b"RIFF") & begins(b"WEBP", at=8), lambda: _in_full(_decode_webp(data, head))),
        ],
        default=lambda: _in_full(_decode_bmp(data, begins(b"BM"))),
    )
    return _fitted(picture, *_frame(shape, size, resize), size, bars)


def _in_full(picture: Any) -> tuple[Any, Any]:
    """Return a picture and its own (height, width)."""
    return picture, tf.cast(tf.shape(picture)[:2], tf.float64)


def _frame(shape: Any, size: Size, resize: Resize) -> tuple[Any, Any]:
    """Return what `dataset` does, with the same arithmetic: the size of the part, and its share.

    Args:
        shape: the picture's (height, width), float64.
        size: (height, width) to fit it into.
        resize: how.

    Returns:
        Two `(2,)` float64, of heights and widths: pixels, and shares of the picture's sides.

    """
    target, whole = tf.constant(size, tf.float64), tf.ones(2, tf.float64)
    # Each side's, if the other one fills the target.
    if resize == "letterbox":
        inner = tf.minimum(target, target[::-1] * shape / shape[::-1])
        return tf.maximum(tf.round(inner), 1), whole
    if resize == "crop":
        return target, tf.minimum(whole, target * shape[::-1] / (target[::-1] * shape))
    return target, whole


def _decode_jpeg(data: Any, size: Size, resize: Resize) -> tuple[Any, Any]:
    """Decode at 1/2, 1/4 or 1/8 of the size if what is shown of it need not grow then.

    The same shrinking in the decoder as Pillow's `draft`, and the same arithmetic. Returns the
    picture and its (height, width) in full.
    """
    shape = tf.io.extract_jpeg_shape(data)[:2]
    with tf.control_dependencies([_check_pixels(shape)]):
        shape = tf.cast(shape, tf.float64)
    inner, part = _frame(shape, size, resize)
    times = tf.reduce_min(shape // tf.floor(inner / part))

    def decode(ratio: int) -> Any:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    picture = tf.case(
        [(times >= ratio, functools.partial(decode, ratio)) for ratio in (8, 4, 2)],
        default=lambda: decode(1),
    )
    return tf.cast(picture, tf.float32), shape


def _decode_png(data: Any, head: Any) -> Any:
    sides = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    with tf.control_dependencies([_check_pixels(sides)]):
        picture = tf.io.decode_png(data, channels=4)
    # The decoder's alpha of a picture that has none is the largest number of its bit depth.
    depth = tf.io.decode_raw(tf.strings.substr(head, 24, 1), tf.uint8)[0]
    opaque = tf.bitwise.left_shift(1, tf.cast(tf.minimum(depth, 8), tf.int32)) - 1
    return _on_white(picture, tf.cast(opaque, tf.uint8))


def _decode_webp(data: Any, head: Any) -> Any:
    # Of an animation, TensorFlow 2.21 writes more frames than it has made room for.
    flags = tf.io.decode_raw(tf.strings.substr(head, 20, 1), tf.uint8)[0]
    animated = (tf.strings.substr(head, 12, 4) == b"VP8X") & (flags & 2 > 0)
    still = tf.debugging.Assert(~animated, ["the bytes are an animated WebP"])
    with tf.control_dependencies([still]):
        picture = tf.io.decode_image(data, expand_animations=False)
    with tf.control_dependencies([_check_pixels(tf.shape(picture)[:2])]):
        picture = tf.ensure_shape(picture, (None, None, None))
    return tf.cond(
        tf.shape(picture)[2] == 4,
        lambda: _on_white(picture, tf.constant(255, tf.uint8)),
        lambda: tf.cast(picture[..., :3], tf.float32),
    )


def _decode_bmp(data: Any, is_bmp: Any) -> Any:
    known = tf.debugging.Assert(is_bmp, ["the bytes are neither JPEG, PNG, WebP nor BMP"])
    with tf.control_dependencies([known]):
        picture = tf.io.decode_bmp(data)
    message = "the bytes are a BMP with a palette"
    with tf.control_dependencies([tf.debugging.Assert(tf.shape(picture)[2] >= 3, [message])]):
        return tf.cast(tf.ensure_shape(picture, (None, None, None))[..., :3], tf.float32)


def _on_white(rgba: Any, opaque: Any) -> Any:
    def blend() -> Any:
        alpha = tf.cast(rgba[..., 3:], tf.float32) / 255
        return tf.round(tf.cast(rgba[..., :3], tf.float32) * alpha + 255 * (1 - alpha))

    return tf.cond(
        tf.reduce_all(rgba[..., 3] == opaque),
        lambda: tf.cast(rgba[..., :3], tf.float32),
        blend,
    )


def _check_pixels(sides: Any) -> Any:
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    message = f"the picture has more than {_MAX_PIXELS} pixels"
    return tf.debugging.Assert(pixels <= _MAX_PIXELS, [message])


def _fitted(picture: Any, inner: Any, part: Any, size: Size, bars: int) -> Any:
    """Resize the middle part of a picture to `inner` pixels, and put bars around that."""
    shape = tf.cast(tf.shape(picture)[:2], tf.float64)
    shown = part * shape
    start = (shape - shown) / 2
    end = start + shown
    # Pillow's `reducing_gap`: means of whole blocks first, down to twice the size at least, of
    # the part and what the resize sees around it.
    scale = (end - start) / inner
    factors = tf.maximum(tf.floor(scale / 2), 1)
    reduces = tf.reduce_max(factors) > 1
    first = tf.where(reduces, tf.maximum(tf.floor(start - scale / 2), 0), 0)
    last = tf.where(reduces, tf.minimum(tf.math.ceil(end + scale / 2), shape), shape)
    reduced = _reduce(picture, *(tf.cast(each, tf.int32) for each in (first, last, factors)))
    zoom = factors / scale
    resized = tf.raw_ops.ScaleAndTranslate(
        images=reduced[tf.newaxis],
        size=tf.cast(inner, tf.int32),
        scale=tf.cast(zoom, tf.float32),
        translation=tf.cast((first - start) / factors * zoom, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    left = tf.constant(size) - tf.cast(inner, tf.int32)
    before = left // 2
    paddings = tf.concat([tf.stack([before, left - before], axis=1), [[0, 0]]], axis=0)
    padded = tf.pad(tf.round(resized), paddings, constant_values=bars)
    return tf.ensure_shape(padded, (*size, 3))


def _reduce(picture: Any, first: Any, last: Any, factors: Any) -> Any:
    """Return the means of blocks of `(height, width)` pixels; the last ones may be smaller."""

    def reduce() -> Any:
        reduced = picture[first[0] : last[0], first[1] : last[1]]
        for axis in (0, 1):
            blocks = tf.range(tf.shape(reduced)[0]) // factors[axis]
            reduced = tf.transpose(tf.math.segment_mean(reduced, blocks), (1, 0, 2))
        return tf.round(reduced)

    return tf.cond(tf.reduce_max(factors) > 1, reduce, lambda: picture)
