"""Random rotation, shift, shear, zoom and flip of whole batches, as one affine transform each."""

from __future__ import annotations

import math
from typing import Annotated, Any

import keras
from annotated_types import Ge, Le, Lt
from keras import ops

from imagetag.arguments import AnyWhole, Share, check_number
from imagetag.inputs.batch_plan import NOISE


@keras.saving.register_keras_serializable("imagetag")
class RandomAffine(keras.layers.Layer):
    """Moves each image of a batch at random, once; what is uncovered repeats the nearest pixel.

    The parameters mean what they mean in Keras's ImageDataGenerator, and on square images the
    result is the same. On others that one turns about a point beside the centre and takes the
    width for the height; this one does not. Active in training only.

    Input and output: `(batch, height, width, channels)`, any real type, float32 out. With `noise`,
    `(batch, 7)` in [0, 1), the moves are a function of it; without, of the layer's own generator.

    Args:
        rotation: degrees, drawn from `[-rotation, rotation]`.
        width_shift: fraction of the width, to either side.
        height_shift: fraction of the height, up or down.
        shear: degrees, to either side. (A tenth of a radian is 5.7 degrees.)
        zoom: fraction; both axes are scaled independently by `[1 - zoom, 1 + zoom]`.
        horizontal_flip: whether half of the images are mirrored.
        seed: of the layer's own random numbers.

    Raises:
        ValueError: if a number cannot be.

    """

    def __init__(
        self,
        rotation: float = 20.0,
        width_shift: float = 0.1,
        height_shift: float = 0.1,
        shear: float = math.degrees(0.1),
        zoom: float = 0.1,
        horizontal_flip: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Not by `check_numbers`: Keras looks at the parameters itself.
        check_number("rotation", rotation, Annotated[float, Ge(0), Le(360)])
        check_number("width_shift", width_shift, Annotated[float, Ge(0), Le(1)])
        check_number("height_shift", height_shift, Annotated[float, Ge(0), Le(1)])
        check_number("shear", shear, Annotated[float, Ge(0), Lt(90)])
        check_number("zoom", zoom, Share)
        check_number("seed", seed, AnyWhole | None)
        super().__init__(**kwargs)
        self.rotation, self.shear, self.zoom = rotation, shear, zoom
        self.width_shift, self.height_shift = width_shift, height_shift
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, noise: Any = None, training: bool = False) -> Any:
        """Return the images moved in training, and as they are at inference."""
        if not training:
            return ops.cast(images, "float32")
        if noise is None:
            noise = keras.random.uniform((ops.shape(images)[0], NOISE), seed=self.generator)
        return apply_affine(images, self.transforms(noise, images.shape[1], images.shape[2]))

    def transforms(self, noise: Any, height: int, width: int) -> Any:
        """Return the transforms, `(batch, 6)`, that `(batch, 7)` noise in [0, 1) stands for."""
        draws = 2 * ops.cast(noise, "float32") - 1
        rotation, down, right, shear, zoom_y, zoom_x, flip = (draws[:, i] for i in range(NOISE))
        mirrored = ops.cast(flip < 0, "float32") if self.horizontal_flip else ops.zeros_like(flip)
        return affine_transforms(
            height=height,
            width=width,
            rotation=rotation * math.radians(self.rotation),
            down=down * self.height_shift,
            right=right * self.width_shift,
            shear=shear * math.radians(self.shear),
            zoom_y=1 + zoom_y * self.zoom,
            zoom_x=1 + zoom_x * self.zoom,
            flip=mirrored,
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output, which is that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what the constructor takes."""
        return {
            **super().get_config(),
            "rotation": self.rotation,
            "width_shift": self.width_shift,
            "height_shift": self.height_shift,
            "shear": self.shear,
            "zoom": self.zoom,
            "horizontal_flip": self.horizontal_flip,
            "seed": self.seed,
        }


def affine_transforms(
    *,
    height: int,
    width: int,
    rotation: Any,
    down: Any,
    right: Any,
    shear: Any,
    zoom_y: Any,
    zoom_x: Any,
    flip: Any,
) -> Any:
    """Return transforms from output to input pixels, of shape `(batch, 6)`, row by row.

    The product is centre · rotation · shift · shear · zoom · centre⁻¹ · flip, as in Keras's
    `apply_affine_transform` followed by `flip_axis`. Angles are in radians, shifts in fractions of
    the height and width, `flip` is 0 or 1; each of shape `(batch,)`.
    """
    # The linear part is R · S · Z, in (x, y):
    cos, sin = ops.cos(rotation), ops.sin(rotation)
    shear_x, shear_y = -ops.sin(shear), ops.cos(shear)
    xx = cos * zoom_x
    xy = (cos * shear_x - sin * shear_y) * zoom_y
    yx = sin * zoom_x
    yy = (sin * shear_x + cos * shear_y) * zoom_y
    # The offset is R · shift, with the centre held in its place.
    shift_x, shift_y = right * width, down * height
    centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
    offset_x = cos * shift_x - sin * shift_y + centre_x - xx * centre_x - xy * centre_y
    offset_y = sin * shift_x + cos * shift_y + centre_y - yx * centre_x - yy * centre_y
    # A mirrored output pixel x reads what stood at width - 1 - x.
    mirror = 1 - 2 * flip
    offset_x = offset_x + xx * flip * (width - 1)
    offset_y = offset_y + yx * flip * (width - 1)
    return ops.stack([xx * mirror, xy, offset_x, yx * mirror, yy, offset_y], axis=1)


def apply_affine(images: Any, transforms: Any) -> Any:
    """Return images of shape `(batch, height, width, channels)`, each moved by its transform.

    Bilinear, and what lies outside is the nearest pixel. The same as Keras's
    `ops.image.affine_transform`, but of operations that a compiler can fuse: compiled by XLA it
    was measured at a quarter of that one's time on a CPU.
    """
    count, height, width, channels = images.shape
    count = ops.shape(images)[0] if count is None else count
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    # Not `transforms[:, i, None, None]`: TensorFlow's graph optimizer loses those axes.
    xx, xy, offset_x, yx, yy, offset_y = (
        ops.reshape(transforms[:, i], (-1, 1, 1)) for i in range(6)
    )
    from_x = ops.clip(xx * x + xy * y + offset_x, 0.0, width - 1.0)
    from_y = ops.clip(yx * x + yy * y + offset_y, 0.0, height - 1.0)
    left, top = ops.cast(from_x, "int32"), ops.cast(from_y, "int32")
    right, bottom = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)
    share_x = (from_x - ops.cast(left, "float32"))[..., None]
    share_y = (from_y - ops.cast(top, "float32"))[..., None]
    pixels = ops.reshape(images, (-1, channels))
    first = ops.arange(count, dtype="int32")[:, None, None] * (height * width)

    def at(row: Any, column: Any) -> Any:
        return ops.cast(ops.take(pixels, first + row * width + column, axis=0), "float32")

    upper = at(top, left) * (1 - share_x) + at(top, right) * share_x
    lower = at(bottom, left) * (1 - share_x) + at(bottom, right) * share_x
    return upper * (1 - share_y) + lower * share_y
