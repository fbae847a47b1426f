"""How a picture becomes the network's input: a value that travels with weights, runs and exports.

Training, evaluation and serving call the same functions here, so they cannot disagree.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop, order the channels, subtract the mean, divide by the scale; on values 0 to 255."""

    resize: int
    """pixels of the shorter side after an antialiased bilinear resize"""
    crop: int
    """side in pixels of the centre crop, which is the network's input"""
    channels: Literal["RGB", "BGR"] = "RGB"
    """the order in which the network sees the channels of an RGB picture; mean and scale are in this order"""
    mean: tuple[Any, ...]
    """`[3]`, or `[crop][crop][3]` for the paper's per-pixel mean; in 0 to 255"""
    scale: tuple[float, float, float]
    """what each channel is divided by after the mean is subtracted"""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"crop is {self.crop!r} and resize is {self.resize!r}; give 0 < crop <= resize")
        shape = np.shape(self.mean)
        if shape not in ((3,), (self.crop, self.crop, 3)):
            raise ValueError(f"mean has shape {shape}; give (3,) or ({self.crop}, {self.crop}, 3)")
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"channels is {self.channels!r}; choose one of 'RGB', 'BGR'")

    @property
    def normalization(self) -> tuple[Any, ...]:
        """What trained weights depend on; another resize or crop only shows them larger or smaller pictures."""
        return self.channels, self.mean, self.scale

    def describe(self) -> str:
        mean = "a per-pixel mean" if len(np.shape(self.mean)) > 1 else f"mean {self.mean}"
        return f"{self.channels} channels, {mean} and scale {self.scale}"

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """The value written by `to_json`. Raises `ValueError` where the text is something else."""
        try:
            values = json.loads(text)
            return cls(**{name: _tuples(value) for name, value in values.items()})
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a preprocessing: {error}") from None

    @classmethod
    def read(cls, path: Path) -> "Preprocessing":
        """The value in a file. Raises `ValueError` where the file holds something else."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _rgb(mean: tuple[float, ...], scale: tuple[float, ...], channels: Literal["RGB", "BGR"] = "RGB") -> Preprocessing:
    return Preprocessing(resize=256, crop=224, channels=channels, mean=mean, scale=scale)  # type: ignore[arg-type]


# What public ImageNet weights were trained with, under the names of keras.applications' modes; one 224 px crop.
PREPROCESSING: dict[str, Preprocessing] = {
    # The paper's authors: BGR, the mean of ImageNet.
    "caffe": _rgb((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR"),
    # torchvision and timm: (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) of 255.
    "torch": _rgb((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    # keras.applications' V2 networks: -1 to 1.
    "tf": _rgb((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def per_pixel_mean(images: np.ndarray, size: int) -> Preprocessing:
    """The paper's for CIFAR (section 4.2): the mean picture of the training set is subtracted.

    Dividing by 255 as well keeps activations near one; batch norm makes the network blind to it.
    `images`: uint8 `[N, H, W, 3]`; where they are of another size than `size`, the mean picture is resized.
    """
    picture = np.asarray(np.mean(images, axis=0, keepdims=True, dtype=np.float64), np.float32)
    blank = Preprocessing(resize=size, crop=size, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    mean = test_view(blank, picture).numpy()[0]
    return Preprocessing(resize=size, crop=size, mean=_tuples(mean.tolist()), scale=(255.0, 255.0, 255.0))


def per_channel_mean(size: int) -> Preprocessing:
    """The mean colour of ImageNet, and test pictures whose shorter side is 8/7 of the crop (section 3.4: 256, 224)."""
    caffe = PREPROCESSING["caffe"]
    return Preprocessing(resize=round(size * 256 / 224), crop=size, mean=caffe.mean[::-1], scale=(255.0, 255.0, 255.0))


def normalize(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """Values 0 to 255 in `[..., crop, crop, 3]` to the float32 numbers that the network sees."""
    if preprocessing.channels == "BGR":
        images = tf.reverse(images, axis=[-1])
    mean = tf.constant(np.asarray(preprocessing.mean, np.float32))
    scale = tf.constant(np.asarray(preprocessing.scale, np.float32))
    return (tf.cast(images, tf.float32) - mean) / scale


def denormalize(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """What the network sees, `[..., crop, crop, 3]`, as uint8 RGB pictures to look at: `normalize` undone, clipped."""
    values = images * np.asarray(preprocessing.scale, np.float32) + np.asarray(preprocessing.mean, np.float32)
    if preprocessing.channels == "BGR":
        values = tf.reverse(values, axis=[-1])
    return tf.saturate_cast(tf.round(values), tf.uint8)


def test_view(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """The single view that networks are tested on: shorter side resized, centre cropped.

    Pictures `[N, H, W, 3]` of any numeric type to float32 `[N, crop, crop, 3]` with values 0 to 255.
    Pictures that have the size already keep their values exactly.
    """
    if images.shape[1:3] != (preprocessing.resize, preprocessing.resize):
        images = resized(images, preprocessing.resize)
    images = tf.cast(images, tf.float32)
    top, left = tf.unstack((tf.shape(images)[1:3] - preprocessing.crop) // 2)
    images = images[:, top : top + preprocessing.crop, left : left + preprocessing.crop]
    return tf.ensure_shape(images, [None, preprocessing.crop, preprocessing.crop, 3])


def resized(images: tf.Tensor, shorter: int) -> tf.Tensor:
    """Pictures `[N, H, W, 3]` with the shorter side of `shorter` pixels and the aspect kept; antialiased, bilinear."""
    sides = tf.shape(images)[1:3]
    # Integer arithmetic: a float factor can round a side down by one pixel. The filter computes in float32 whatever the
    # pixels are, so large pictures stay the bytes that they are.
    images = tf.image.resize(images, sides * shorter // tf.reduce_min(sides), method="bilinear", antialias=True)
    return tf.cast(images, tf.float32)


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """One encoded JPEG, PNG, GIF (its first frame) or BMP to uint8 `[H, W, 3]`."""
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


# What is beyond these is neither trained on nor answered: several at a time would fill the memory.
MAX_PIXELS = 2**26
"""of a picture, as it declares itself: 67 million, 200 MB when decoded"""
MAX_ASPECT = 32
"""longer side to shorter: the test view resizes the whole picture, and a sliver would become a giant"""


def decode_untrusted(image_bytes: tf.Tensor) -> tf.Tensor:
    """One encoded JPEG or PNG from outside to uint8 `[H, W, 3]`: the pixels of `decode`, within bounds.

    What begins as neither, or declares more than the bounds, is refused before it is decoded, as what cannot be decoded
    is: by an error of the graph. A JPEG that is cut off is read as far as it goes, and grey from there.
    GIF and BMP are refused: the frames of a GIF cannot be bounded by its header.
    """
    is_png = tf.strings.substr(image_bytes, 0, 8) == b"\x89PNG\r\n\x1a\n"

    def sides_of_png() -> tf.Tensor:
        return tf.io.decode_raw(tf.strings.substr(image_bytes, 16, 8), tf.int32, little_endian=False)

    def sides_of_jpeg() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(image_bytes)[:2]

    def sides_of_neither() -> tf.Tensor:
        return tf.zeros([2], tf.int32)

    jpeg_or_neither = partial(tf.cond, tf.io.is_jpeg(image_bytes), sides_of_jpeg, sides_of_neither)
    sides = tf.cond(is_png, sides_of_png, jpeg_or_neither)
    with tf.control_dependencies([require_bounds(sides)]):
        # Despite its name it reads PNG too.
        image = tf.io.decode_jpeg(image_bytes, channels=3, try_recover_truncated=True)
    return tf.ensure_shape(image, [None, None, 3])


def require_bounds(sides: tf.Tensor) -> tf.Operation:
    """An error of the graph unless a picture of these sides, `[2]` in pixels, is within the bounds."""
    sides = tf.cast(sides, tf.int64)
    shorter, longer = tf.reduce_min(sides), tf.reduce_max(sides)
    good = (shorter > 0) & (longer <= MAX_ASPECT * shorter) & (shorter * longer <= MAX_PIXELS)
    message = f"a picture may have {MAX_PIXELS} pixels, and a side {MAX_ASPECT} times the other, but has sides"
    return tf.debugging.Assert(good, [message, sides])
